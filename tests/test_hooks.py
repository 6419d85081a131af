"""Hooks: pictures of masks, prompt files, statistics, guards, progress."""

import io
import logging
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.runner import LogProcessor
from torch import nn

from freqkd.hooks.distillation_log import DistillationLogHook, show_small_numbers
from freqkd.hooks.masks import MaskHook
from freqkd.hooks.memory_format import ChannelsLastHook
from freqkd.hooks.progress import SECONDS, ProgressHook
from freqkd.hooks.prompts import PromptFileHook, PromptStatisticsHook
from freqkd.models.distiller import Distiller
from freqkd.models.prompt_tuner import PromptTuner
from freqkd.utils.checkpoints import read_checkpoint


@pytest.fixture(scope="module")
def stages(tool, tiny_config, trained, tmp_path_factory):
    """Both stages of the segmentation chain with pictures and statistics, and their message hubs."""
    folder = tmp_path_factory.mktemp("hooks")
    hooks = "[dict(type='freqkd.MaskHook', interval=2, level=1){0}]"
    more = "custom_hooks = " + hooks.format(
        ", dict(type='freqkd.PromptStatisticsHook'), dict(type='freqkd.PromptFileHook', name='mine.pth')"
    )
    first = tiny_config(folder / "first.py", "segmentation", "prompts", more, iterations=3)
    assert tool("train", first, "--work-dir", folder / "first") == 0
    prompts = str(folder / "first" / "mine.pth")
    more = f"model = dict(terms=dict(loss_freekd=dict(prompts={prompts!r})))\ncustom_hooks = {hooks.format('')}"
    second = tiny_config(folder / "second.py", "segmentation", "distill", more, iterations=2)
    assert tool("train", second, "--work-dir", folder / "second") == 0
    return folder


def test_masks_are_pictured_in_both_stages(stages):
    import cv2

    for stage, name in (("first", "prompts"), ("second", "loss_freekd")):
        found = [path for path in (stages / stage).rglob("*.png") if "masks" in str(path)]
        assert [path.name for path in found] == [f"masks_{name}_level1_2.png"]
        picture = cv2.imread(str(found[0]))
        assert picture.shape[2] == 3
        assert picture.std() > 5


def test_masks_need_a_positive_interval():
    with pytest.raises(ValueError, match="interval must be at least 1, got 0"):
        MaskHook(interval=0)


@pytest.mark.parametrize(("level", "words"), [(4, "from 0 to 3, .*prompts has 4.*, got 4"), (-1, "at least 0, got -1")])
def test_a_level_that_has_no_prompts_is_an_error_before_the_first_step(level, words):
    tuner = PromptTuner(dict(config="x.py", checkpoint="x.pth"), dict(channels=4, num_levels=4))
    with pytest.raises(ValueError, match=f"level must be {words}"):
        MaskHook(level=level).before_train(SimpleNamespace(model=tuner))


def test_the_prompt_file_holds_what_was_trained_and_names_the_teacher(stages, trained):
    written = read_checkpoint(stages / "first" / "mine.pth")
    last = read_checkpoint(stages / "first" / "iter_3.pth")["state_dict"]
    assert set(written["state_dict"]) == set(last)
    assert all(torch.equal(written["state_dict"][key], value) for key, value in last.items())
    made = dict(tap="neck", levels=[0, 1, 2, 3], channels=[64] * 4, num_levels=4, num_prompts=2, gate=False)
    made.update(wavelet="haar", tokens_per="subband", depth=3, score="signed")
    made.update(teacher="data/teachers/road-scenes_semantic-fpn-r18w48.pth")
    made.update(teacher_hash=read_checkpoint(trained("segmentation").prompts)["meta"]["teacher_hash"])
    assert written["meta"] == made
    assert len(made["teacher_hash"]) == 64
    assert (stages / "first" / "mine.pth").stat().st_size < 300_000


def test_the_prompt_file_is_written_by_one_process(monkeypatch, tmp_path):
    monkeypatch.setattr("mmengine.dist.utils.get_rank", lambda group=None: 1)
    PromptFileHook().after_train(SimpleNamespace(work_dir=str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_a_prompt_stage_without_the_hook_writes_its_file_and_a_resumed_one_writes_it_again(tool, tiny_config, tmp_path):
    config = tiny_config(tmp_path / "config.py", "detection", "prompts", "custom_hooks = []", iterations=1)
    assert tool("train", config, "--work-dir", tmp_path / "run") == 0
    written = tmp_path / "run" / "prompts.pth"
    before = read_checkpoint(written)
    written.unlink()  # as after a training by MMEngine alone
    assert tool("train", config, "--work-dir", tmp_path / "run", "--resume", tmp_path / "run" / "epoch_1.pth") == 0
    after = read_checkpoint(written)
    assert after["meta"] == before["meta"]
    assert all(torch.equal(after["state_dict"][key], value) for key, value in before["state_dict"].items())


@pytest.mark.parametrize("hook", [PromptFileHook(), PromptStatisticsHook(), MaskHook()])
def test_a_hook_of_another_stage_is_an_error_before_the_first_step(hook):
    with pytest.raises(ValueError, match=r"belongs to a prompt stage|must have frequency prompts"):
        hook.before_train(SimpleNamespace(model=nn.Linear(1, 1)))


def test_statistics_are_taken_before_and_after(stages):
    info = read_checkpoint(stages / "first" / "iter_3.pth")["message_hub"]["runtime_info"]
    before = info["prompt_statistics_before"]
    assert set(before) == {"overlap", "deviation", "mean_deviation"}
    assert 0.9 < before["overlap"] <= 1
    assert before["mean_deviation"] < 1e-3
    log = next((stages / "first").rglob("*.log")).read_text()
    line = next(line for line in log.splitlines() if "Masks after the prompt stage" in line)
    after = float(line.split("overlap ")[1].split(",")[0])
    assert after < before["overlap"]


def test_statistics_without_validation_data_are_left_out_with_one_warning(fresh, tmp_path, tool, tiny_config, capfd):
    more = "custom_hooks = [dict(type='freqkd.PromptStatisticsHook')]\nval_cfg = val_dataloader = val_evaluator = None"
    config = tiny_config(tmp_path / "config.py", "segmentation", "prompts", more, iterations=1)
    text = config.read_text().replace("val_dataloader = dict(batch_size=2, dataset=dict(indices=2))\n", "")
    config.write_text(text)
    assert tool("train", config, "--work-dir", tmp_path / "run") == 0
    log = next((tmp_path / "run").rglob("*.log")).read_text()
    assert log.count("PromptStatisticsHook measures nothing: it needs val_dataloader") == 1
    assert "Masks after" not in log


def test_a_run_says_what_it_distils_and_what_came_of_it(stages):
    first, second = (next((stages / name).rglob("*.log")).read_text().splitlines() for name in ("first", "second"))
    start = next(place for place, line in enumerate(first) if line.endswith("Teacher of this stage:"))
    assert first[start + 1].startswith(
        "    teacher: EncoderDecoder, 6.76 M parameters, from configs/baselines/semantic-fpn"
    )
    assert first[start + 2].startswith("    prompts: at 'neck': 64x")
    assert first[start + 3].startswith("    trained: prompts (")
    start = next(place for place, line in enumerate(second) if line.endswith("What is distilled:"))
    assert not any("Saving checkpoint" in line for line in second[:start])
    student, teacher, loss, *taps, beside = second[start + 1 : start + 7]
    assert student.startswith("    student: EncoderDecoder, 827 k parameters")
    assert teacher.endswith("with data/teachers/road-scenes_semantic-fpn-r18w48.pth")
    assert (
        "loss_freekd: FreeKDLoss, gradient 0.5 times the task's (weight measured over 50 iterations), prompts" in loss
    )
    assert loss.endswith("first/mine.pth")
    assert [" at stride 4, " in line and line.count("stride") == 4 for line in taps] == [True, True]
    assert taps[0].endswith(", through ConvAlign")
    assert beside.startswith("    trained beside the student: loss_freekd.align (")
    (end,) = [line for line in second if "Distilled student: " in line]
    assert "Distilled student: aAcc " in end
    assert "; its teacher: freqkd test configs/baselines/semantic-fpn" in end


def test_the_end_of_a_run_has_the_students_metrics_and_the_command_for_the_teachers():
    lines = []
    runner = SimpleNamespace(model=Distiller.__new__(Distiller), logger=SimpleNamespace(info=lines.append))
    torch.nn.Module.__init__(runner.model)
    hook = DistillationLogHook()
    for config, command in (("a.py", "; its teacher: freqkd test a.py b.pth"), (dict(model=1), "")):
        runner.model.teacher = SimpleNamespace(config=config, checkpoint="b.pth")
        hook.after_val_epoch(runner, {"coco/bbox_mAP": 0.25, "note": "text"})
        hook.after_train(runner)
        assert lines.pop() == f"Distilled student: coco/bbox_mAP 0.25{command}"
    DistillationLogHook().after_train(runner)  # without a validation
    assert not lines


def test_small_numbers_of_the_training_are_written_in_scientific_notation(fresh):
    hub = MessageHub.get_instance("numbers")
    for mode in ("train", "val"):
        hub.update_scalars({f"{mode}/grad_norm/loss_logit": 3.2e-6, f"{mode}/loss": 0.5})
    processor = LogProcessor()
    show_small_numbers(processor)
    runner = SimpleNamespace(message_hub=hub)
    texts = [
        [f"{number:.4f}" for number in processor._collect_scalars([], runner, mode).values()]
        for mode in ("train", "val")
    ]
    assert texts == [["3.2000e-06", "0.5000"], ["0.0000", "0.5000"]]


@pytest.fixture
def clock(monkeypatch, fresh):
    """A clock that tests set, and a run of ten steps."""
    time = SimpleNamespace(now=100.0)
    monkeypatch.setattr("freqkd.hooks.progress.time.monotonic", lambda: time.now)
    return time, SimpleNamespace(message_hub=MessageHub.get_instance("progress"), iter=0, max_iters=10)


def step(hook, clock, seconds):
    time, runner = clock
    time.now += seconds
    hook.after_train_iter(runner, 0)
    runner.iter += 1


def test_progress_tells_steps_speed_and_time_left_now_and_then(clock):
    hook = ProgressHook("student", every=5.0)
    hook.out = io.StringIO()
    hook.before_train(clock[1])
    for _ in range(10):
        step(hook, clock, 2.0)
    assert hook.out.getvalue().splitlines() == [
        "    student: step 3 of 10, 2.00 s each, 14 s left",
        "    student: step 6 of 10, 2.00 s each, 8 s left",
        "    student: step 9 of 10, 2.00 s each, 2 s left",
        "    student: step 10 of 10, 2.00 s each, 20 s",
    ]


def test_progress_counts_training_without_validation_and_across_an_interruption(clock):
    time, runner = clock
    hook = ProgressHook(every=1000.0)
    hook.before_train(runner)
    step(hook, clock, 3.0)
    time.now += 1.0  # a checkpoint is saved
    hook.before_val(runner)
    time.now += 50.0
    hook.after_val(runner)
    step(hook, clock, 2.0)
    assert runner.message_hub.runtime_info[SECONDS] == 6.0
    time.now += 1000.0
    resumed = ProgressHook(every=0.0)
    resumed.out = io.StringIO()
    resumed.before_train(runner)
    step(resumed, clock, 4.0)
    assert runner.message_hub.runtime_info[SECONDS] == 10.0
    assert resumed.out.getvalue() == "    training: step 3 of 10, 4.00 s each, 28 s left\n"


def test_channels_last_changes_the_order_in_memory_and_no_value():
    model = nn.Conv2d(3, 4, 3)
    before = model.weight.detach().clone()
    ChannelsLastHook().before_train(SimpleNamespace(model=model))
    assert model.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize(
    ("capability", "shape", "converted"),
    [
        ("AVX512", dict(in_channels=15, kernel_size=1, stride=(1, 2)), False),
        ("AVX2", dict(in_channels=15, kernel_size=1, stride=2), True),
        ("AVX512", dict(in_channels=16, kernel_size=1, stride=2), True),
        ("AVX512", dict(in_channels=15, kernel_size=1, stride=1), True),
        ("AVX512", dict(in_channels=15, kernel_size=3, stride=2), True),
        ("AVX512", dict(in_channels=15, kernel_size=1, stride=2, groups=15), True),
        ("AVX512", dict(in_channels=15, kernel_size=1, stride=2, device="meta"), True),
    ],
)
def test_channels_last_is_left_out_where_it_would_damage_memory(monkeypatch, capability, shape, converted):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    said = []
    monkeypatch.setattr("freqkd.hooks.memory_format.print_log", lambda *given: said.append(given))
    model = nn.Sequential(nn.Conv2d(3, 15, 3), nn.Conv2d(out_channels=15, **shape))
    ChannelsLastHook().before_train(SimpleNamespace(model=model))
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last) is converted
    assert bool(said) is not converted
    if said:
        ((message, logger, level),) = said
        assert message.startswith("freqkd.ChannelsLastHook leaves the model as it is: the gradients of 1 (1 x 1")
        assert (logger, level) == ("current", logging.WARNING)
