"""Numbers that are not finite are named and never reach the weights."""

import math
import os
from itertools import pairwise

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS, OPTIM_WRAPPERS

from freqkd.datasets.plain_data import from_plain, to_plain
from freqkd.hooks.non_finite import NonFiniteError, NonFiniteHook
from freqkd.utils.checkpoints import CheckpointError, read_checkpoint
from freqkd.utils.processes import start_processes, without_devices

BAD = dict(type="freqkd.BadLoss")
STOP, SKIP, LOWER = (dict(type="freqkd.NonFiniteHook", action=action) for action in ("stop", "skip", "lower"))
INF = "inf"  # as a config file can hold it


def finite(state):
    return all(bool(torch.isfinite(value).all()) for value in state.values())


@HOOKS.register_module(name="Poison", force=True)
class Poison(Hook):
    """Spoils a weight before the third step."""

    priority = "LOWEST"

    def after_train_iter(self, runner, *_, **__):
        if runner.iter == 1:
            runner.model.head.bias.data.fill_(math.nan)


@OPTIM_WRAPPERS.register_module(name="ScaledOptimWrapper", force=True)
class ScaledOptimWrapper(OptimWrapper):
    """MMEngine's `AmpOptimWrapper`, which asks for an accelerator, with the scaler of the CPU and no autocast."""

    def __init__(self, **options):
        super().__init__(**options)
        self.loss_scaler = torch.amp.GradScaler("cpu")

    def backward(self, loss, **options):
        self.loss_scaler.scale(loss).backward(**options)
        self._inner_count += 1

    def step(self, **options):
        self.loss_scaler.step(self.optimizer, **options)
        self.loss_scaler.update()


def faulty(toy, kind):
    """A config whose third step goes wrong, and how the message begins."""
    good = dict(loss_good=dict(loss=BAD, weight=0.5))
    if kind == "loss of a term":
        words = "the loss 'distill.loss_bad' is nan at 'neck', levels 0 and 1"
        return toy.config(toy.model(**good, loss_bad=dict(loss=dict(BAD, at=3))), STOP), words
    if kind == "gradient of a term":
        spoilt = dict(BAD, at=3, what="gradient", value=INF, level=1)
        words = "the gradient of the loss 'distill.loss_bad' is inf at 'neck', level 1"
        return toy.config(toy.model(**good, loss_bad=dict(loss=spoilt, weight=dict(ratio=0.5))), STOP), words
    if kind == "loss of the task":
        return toy.config(toy.model(dict(at=3, value=INF), **good), STOP), "the loss 'loss_task' is inf"
    if kind == "gradient of the task":
        network = toy.model(dict(at=3, what="gradient"), **good)
        return toy.config(network, STOP), "the gradient of 'head.bias' and 7 more is nan"
    if kind == "student alone":
        return toy.config(dict(type="freqkd.Toy", at=3), STOP), "the loss 'loss_task' is nan"
    if kind == "prompt stage":
        network = dict(
            type="freqkd.PromptTuner", teacher=toy.model()["teacher"], prompts=dict(channels=4, num_levels=2, depth=1)
        )
        network["teacher"]["cfg_options"] = {"model.at": 3}
        return toy.config(network, STOP), "the loss 'loss_task' is nan"
    network = toy.model(**good)
    assert kind == "data"
    words = "the data are not finite: inputs[0] of image4.jpg, the loss 'loss_task' is nan, the loss 'distill.loss_good' is nan"
    return toy.config(network, STOP, bad=[3, 4]), f"{words} at 'neck', levels 0 and 1"


FIRST = {
    "loss of a term": "distiller.loss_bad.loss",
    "loss of the task": "student",
    "student alone": "model",
    "prompt stage": "teacher",
    "data": "data_preprocessor",
}


@pytest.mark.parametrize("kind", [*FIRST, "gradient of a term", "gradient of the task"])
def test_the_first_step_that_is_not_finite_is_named_undone_and_run_again(toy, tool, capsys, kind):
    config, words = faulty(toy, kind)
    runner = toy.run(config)
    assert isinstance(runner.error, NonFiniteError)
    text = str(runner.error)
    step = len(runner.states)
    assert step == 3 or kind == "data"
    assert text.startswith(f"step {step}: {words}; the weights are those before it; to run it again: freqkd replay")
    assert "action='skip'" in text
    assert toy.same(runner.model.state_dict(), runner.states[-1])
    path = f"{config.work_dir}/non_finite_step_{step}.pth"
    assert path in text
    assert toy.same(read_checkpoint(path)["state_dict"], runner.states[-1])
    config.dump(toy.folder / "config.py")
    capsys.readouterr()
    assert tool("replay", toy.folder / "config.py", path) == 0
    printed = capsys.readouterr().out
    assert f"reproduced: {words}" in printed
    assert f"first module whose output is not finite: {FIRST.get(kind, 'none')}" in printed


def test_bad_weights_are_told_from_bad_losses(toy):
    runner = toy.run(toy.config(toy.model(loss_good=dict(loss=BAD)), dict(type="mmengine.Poison"), SKIP))
    words = "step 3: the weights were not finite before the step: head.bias; the weights are those before it; dropping"
    assert str(runner.error).startswith(words)


def test_replayed_gradients_are_those_of_each_term_alone(toy, tool, capsys):
    spoilt = dict(BAD, at=3, what="gradient", value=INF)
    terms = dict(loss_one=dict(loss=BAD), loss_three=dict(loss=BAD, weight=3.0), loss_bad=dict(loss=spoilt))
    config = toy.config(toy.model(**terms), STOP)
    toy.run(config)
    config.dump(toy.folder / "config.py")
    capsys.readouterr()
    assert tool("replay", toy.folder / "config.py", f"{config.work_dir}/non_finite_step_3.pth") == 0
    printed = capsys.readouterr().out.splitlines()
    losses = {line.split(": ")[0]: line.split(": ")[1] for line in printed if "(in training" in line}
    now, then = losses["distill.loss_one"].rstrip(")").split(" (in training ")  # dropout draws the same numbers
    assert now == then
    assert float(now) == pytest.approx(float(losses["distill.loss_three"].split()[0]) / 3, rel=1e-5)
    lines = [line for line in printed if line.startswith("gradient of distill.")]
    norms = {line.split()[2]: [float(part.split()[-1]) for part in line.split(": ")[1].split(", ")] for line in lines}
    assert norms["distill.loss_bad"][0] == math.inf
    assert norms["distill.loss_one"][0] > 0
    assert norms["distill.loss_three"] == pytest.approx([3 * norm for norm in norms["distill.loss_one"]], rel=1e-4)


@pytest.mark.parametrize("guard", [SKIP, LOWER], ids=["skip", "lower"])
def test_a_training_goes_on_without_the_step(toy, guard):
    network = toy.model(loss_bad=dict(loss=dict(BAD, at=3), weight=dict(ratio=0.5, iters=9)))
    runner = toy.run(toy.config(network, guard, iters=5))
    assert runner.error is None
    states = runner.states
    assert [toy.same(*pair) for pair in pairwise(states)] == [False, False, True, False, False]
    assert finite(states[-1])
    assert runner.message_hub.runtime_info["dropped_steps"] == 1
    assert int(states[-1]["distiller.loss_bad.weight.count"]) == 4


def test_a_lowered_term_stays_lowered_when_the_training_is_resumed(toy):
    spoilt = dict(BAD, at=2, until=3, what="gradient")
    config = toy.config(toy.model(loss_good=dict(loss=BAD), loss_bad=dict(loss=spoilt)), dict(LOWER, factor=0.5))
    assert toy.run(config).error is None
    config.resume, config.train_cfg.max_iters = True, 5
    runner = toy.run(config)
    assert len(runner.states) == 2
    hub = MessageHub.get_current_instance()
    assert hub.runtime_info["lowered_terms"] == {"loss_bad": 0.25}
    assert hub.runtime_info["dropped_steps"] == 2
    scalars = {name: hub.get_scalar(f"train/distill.{name}").current() for name in ("loss_good", "loss_bad")}
    assert scalars["loss_bad"] == pytest.approx(0.25 * scalars["loss_good"])


def test_steps_that_stay_bad_end_the_training(toy):
    runner = toy.run(
        toy.config(toy.model(loss_bad=dict(loss=dict(BAD, at=2, until=9))), dict(SKIP, patience=3), iters=9)
    )
    assert len(runner.states) == 4
    assert "; 3 steps in a row were dropped (patience=3)" in str(runner.error)
    assert "replay" not in str(runner.error)  # the file is that of the first
    assert toy.same(runner.states[-1], runner.states[1])


def test_nothing_is_lowered_where_no_term_is_to_blame(toy):
    runner = toy.run(toy.config(toy.model(dict(at=2), loss_good=dict(loss=BAD)), LOWER))
    assert "the cause is not a single term" in str(runner.error)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_good_training_is_the_same_with_the_hook_and_without(toy, accumulated):
    ratio = dict(loss=BAD, weight=dict(ratio=0.5, iters=2))
    network = toy.model(loss_one=ratio, loss_two=dict(loss=BAD))
    ends = []
    for name, hooks in (("with", [STOP]), ("without", [])):
        runner = toy.run(toy.config(network, *hooks, name=name, optim_wrapper=dict(accumulative_counts=accumulated)))
        assert runner.error is None
        ends.append(runner.states)
    assert all(toy.same(*pair) for pair in zip(*ends, strict=True))
    assert not toy.same(ends[0][0], ends[0][-1])


def test_of_accumulated_gradients_the_whole_step_is_dropped(toy):
    network = toy.model(loss_bad=dict(loss=dict(BAD, at=3)))
    runner = toy.run(toy.config(network, SKIP, iters=6, optim_wrapper=dict(accumulative_counts=2)))
    weights = [{key: value for key, value in state.items() if key.endswith("weight")} for state in runner.states]
    assert [toy.same(*pair) for pair in pairwise(weights)] == [True, False, True, True, True, False]
    assert toy.same(runner.states[2], runner.states[4])
    assert finite(runner.states[-1])


def scaled(toy, loss, **options):
    guard = dict(STOP, **options)
    return toy.run(
        toy.config(toy.model(loss_bad=dict(loss=loss)), guard, iters=6, optim_wrapper=dict(type="ScaledOptimWrapper"))
    )


def test_a_scalers_tries_are_left_to_it(toy):
    runner = scaled(toy, dict(BAD, at=2, until=4, what="gradient", value=INF), amp_tries=4)
    assert runner.error is None
    assert runner.optim_wrapper.loss_scaler.get_scale() == 2.0**13
    same = [toy.same(*({"": state["head.weight"]} for state in pair)) for pair in pairwise(runner.states)]
    assert same == [False, True, True, True, False, False]


def test_a_gradient_that_stays_infinite_through_a_scalers_tries_is_named(toy):
    runner = scaled(toy, dict(BAD, at=2, until=9, what="gradient", value=INF), amp_tries=4)
    assert len(runner.states) == 5
    words = "step 5: the gradient of the loss 'distill.loss_bad' is inf at 'neck', level 0 (the GradScaler skipped"
    text = str(runner.error)
    assert text.startswith(f"{words} 3 steps in a row, down to a scale of 8192)")
    assert "; the losses are finite, but float16 ends at 65504: lower the weight" in text


def test_a_loss_does_not_depend_on_the_scale_so_it_is_named_at_once(toy):
    runner = scaled(toy, dict(BAD, at=2))
    assert str(runner.error).startswith("step 2: the loss 'distill.loss_bad' is nan at")
    assert "GradScaler" not in str(runner.error)


def _process(rank, toy, guard, port):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    network = toy.model(loss_bad=dict(loss=dict(BAD, at=2, rank=1)))
    config = toy.config(network, guard, launcher="pytorch")
    start_processes("pytorch")
    runner = toy.run(without_devices(config))
    states = runner.states
    equal = [toy.same(*pair) for pair in pairwise(states)]
    torch.save((str(runner.error), equal, states[-1]), toy.folder / f"answer{rank}")


@pytest.mark.parametrize("guard", [STOP, SKIP], ids=["stop", "skip"])
def test_all_processes_take_the_same_decision(toy, guard):
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    torch.multiprocessing.start_processes(_process, (toy, guard, port), nprocs=2, start_method="fork")
    answers = [torch.load(toy.folder / f"answer{rank}") for rank in range(2)]
    assert answers[0][:2] == answers[1][:2]
    error, equal, _ = answers[0]
    if guard is SKIP:
        assert (error, equal) == ("None", [False, True, False, False])
        parameters = [name for name in answers[0][2] if name.endswith(("weight", "bias"))]
        assert all(torch.equal(answers[0][2][name], answers[1][2][name]) for name in parameters)
    else:
        assert error.startswith("step 2: the loss 'distill.loss_bad' is nan at 'neck', levels 0 and 1 (rank 1); ")
    saved = read_checkpoint(toy.folder / "run" / "non_finite_step_2.pth")
    assert (saved["rank"], saved["world_size"]) == (1, 2)


def test_samples_come_back_from_plain_data():
    import numpy as np
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData, PixelData
    from mmseg.structures import SegDataSample

    from freqkd.datasets.fixed_views import Source, View

    boxes = HorizontalBoxes(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    masks = BitmapMasks(np.ones((1, 4, 5), np.uint8), 4, 5)
    view = View(1, 2, (3, 4), 5, Source(6, 7, 8, "a", "b"))
    meta = dict(img_path="a.jpg", scale_factor=(0.5, 0.25), homography=np.eye(3), fixed_view=view)
    sample = DetDataSample(metainfo=meta)
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([2]), masks=masks)
    pixels = SegDataSample(metainfo=dict(img_path="b.png"))
    pixels.gt_sem_seg = PixelData(data=torch.arange(4).view(1, 2, 2))
    batch = from_plain(to_plain(dict(inputs=[torch.ones(3, 2, 2)], data_samples=[sample, pixels])))
    again, other = batch["data_samples"]
    assert type(again) is DetDataSample
    assert again.fixed_view == view
    assert again.fixed_view.source.views == 7
    assert np.array_equal(again.homography, np.eye(3))
    assert type(again.gt_instances.bboxes) is HorizontalBoxes
    assert torch.equal(again.gt_instances.bboxes.tensor, boxes.tensor)
    assert np.array_equal(again.gt_instances.masks.masks, masks.masks)
    assert (again.scale_factor, int(again.gt_instances.labels)) == ((0.5, 0.25), 2)
    assert torch.equal(other.gt_sem_seg.data, pixels.gt_sem_seg.data)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("os.system", "is not a class of mmengine.structures"),
        ("mmdet.structures.bbox.transforms.bbox2roi", "is not a BaseDataElement"),
        ("mmdet.structures.bbox.HorizontalBoxes", "is not a BaseDataElement"),
        ("mmengine.structures.nothing.Here", "is not installed"),
    ],
)
def test_no_other_class_is_made_of_a_file(name, words):
    with pytest.raises(CheckpointError, match=words):
        from_plain({"class": name, "meta": {"dict": {}}, "fields": {}})


def test_wrong_files_configs_and_arguments_are_one_line(toy, tool, capsys):
    config, _ = faulty(toy, "loss of a term")
    toy.run(config)
    other = toy.config(toy.model(loss_bad=dict(loss=BAD, weight=dict(ratio=1.0))))
    path = f"{config.work_dir}/non_finite_step_3.pth"
    for name, one in (("config", config), ("other", other)):
        one.dump(toy.folder / f"{name}.py")
    healed = toy.config(toy.model(loss_good=dict(loss=BAD, weight=0.5), loss_bad=dict(loss=BAD)))
    healed.dump(toy.folder / "healed.py")
    cases = [
        ("config", toy.folder / "nothing.pth", "replay file not found"),
        ("config", toy.folder / "teacher.pth", "is not a replay file"),
        ("other", path, "is not of this architecture"),
        ("healed", path, "is not reproduced: everything is finite here"),
    ]
    for name, file, words in cases:
        capsys.readouterr()
        assert tool("replay", toy.folder / f"{name}.py", file) == 1
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
    for options, words in ((dict(action="go"), "action must be one of"), (dict(factor=1), "factor must be below 1")):
        with pytest.raises(ValueError, match=words):
            NonFiniteHook(**options)


MORE = """
model = dict(terms=dict(loss_freekd=dict(prompts='untrained', weight=0.5, loss=dict(channels=64, num_levels=3)), loss_bad=dict(
    type='freqkd.DistillTerm', student_tap='neck', student_levels=(1, 2),
    align=dict(type='freqkd.ConvAlign', student_channels=32, teacher_channels=64, num_levels=2),
    loss=dict(type='freqkd.BadLoss', at=2, what='gradient', level=1))))
custom_hooks = [dict(type='freqkd.NonFiniteHook')]
"""


def test_a_real_training_ends_with_one_line_and_its_step_runs_again(tool, tiny_config, tmp_path, capsys):
    config = tiny_config(tmp_path / "bad.py", "detection", "distill", MORE, iterations=3)
    assert tool("train", config, "--work-dir", tmp_path / "run") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    words = "the gradient of the loss 'distill.loss_bad' is nan at 'neck', level 2"
    path = tmp_path / "run" / "non_finite_step_2.pth"
    assert error.startswith(f"error: step 2: {words}; ")
    assert f"freqkd replay {tmp_path / 'run' / 'bad.py'} {path}" in error
    assert not list((tmp_path / "run").glob("epoch_*.pth"))
    assert tool("replay", tmp_path / "run" / "bad.py", path) == 0
    assert f"reproduced: {words}" in capsys.readouterr().out
