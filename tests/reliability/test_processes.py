"""Training in several processes: the gradients of one, one decision of all, and a message where a process is lost.

This file is also the program of the processes: they train the configs that they are called with.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from freqkd.utils.checkpoints import read_checkpoint

pytestmark = pytest.mark.usefixtures("other_processes")
ROOT = Path(__file__).resolve().parent.parent.parent
CONFIGS = ROOT / "configs"
BASES = {
    "student": CONFIGS / "baselines/retinanet_r18w16_b8-12e_blood-cells.py",
    "distiller": CONFIGS / "mse/mse_neck_retinanet-r18w48_retinanet-r18w16_b8-12e_blood-cells.py",
    "prompted": CONFIGS / "freekd/freekd_neck_retinanet-r18w48_retinanet-r18w16_b8-12e_blood-cells.py",
}
STEPS = 3
CONFIG = """
_base_ = [{base!r}]
train_dataloader = dict(batch_size=1, num_workers=0, sampler=dict(shuffle=False), dataset=dict(indices=6, pipeline=[
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(160, 120), keep_ratio=True), dict(type='PackDetInputs')]))
train_cfg = dict(max_epochs={epochs})
val_dataloader = val_cfg = val_evaluator = None
optim_wrapper = dict(_delete_=True, accumulative_counts={counts}, optimizer=dict(type='SGD', lr=0.01))
param_scheduler = []
find_unused_parameters = {unused}
custom_hooks = [dict(type='mmengine.NoteGradients', path={path!r})]
{more}
"""


@HOOKS.register_module(name="NoteGradients", force=True)
class NoteGradients(Hook):
    """Writes the gradients of every step, as the optimizer meets them, to `path.RANK.pth`."""

    def __init__(self, path, statistics=False):
        self.path, self.steps, self.statistics = path, [], statistics

    def before_train(self, runner):
        self.model = getattr(runner.model, "module", runner.model)
        runner.optim_wrapper.optimizer.register_step_pre_hook(self.note)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        for module in self.model.modules():  # statistics of a batch are another matter in each process
            if not self.statistics and isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()

    def note(self, *_):
        named = self.model.named_parameters()
        self.steps.append({name: p.grad.clone() for name, p in named if p.grad is not None})

    def after_train(self, runner):
        torch.save(self.steps, f"{self.path}.{runner.rank}.pth")
        torch.save(self.model.state_dict(), f"{self.path}.{runner.rank}.state.pth")


def train(*configs):
    """Train configs, as one of the processes, with further arguments; returns the exit code of the first that fails."""
    sys.path.insert(0, str(ROOT / "tools"))
    import train as tool
    from yapf.yapflib import yapf_api

    import freqkd.apis.arguments

    torch.set_num_threads(1)
    yapf_api.FormatCode = lambda text, **options: (text, True)  # takes longer than the steps
    options = [word for word in configs if word.startswith("--")]
    for config in [word for word in configs if word not in options]:
        arguments = [config, "--work-dir", config[:-3], "--launcher", "pytorch", *options]
        code = freqkd.apis.arguments.run_tool(tool.main, arguments)
        if code:
            return code
    return 0


def write(path, kind, counts=1, unused=False, epochs=1, more=""):
    if kind == "distiller":
        more += "\nmodel = dict(terms=dict(loss_feature=dict(weight=2.0)))"
    text = CONFIG.format(base=str(BASES[kind]), counts=counts, unused=unused, epochs=epochs, path=str(path), more=more)
    path.with_suffix(".py").write_text(text)
    return path.with_suffix(".py")


def start(rank, port, *configs, world=2):
    """Start one process as a launcher on another machine would."""
    environment = {
        **os.environ,
        **dict(OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)),
        **dict(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank)),
    }
    command = [sys.executable, __file__, *map(str, configs)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def gradients(tmp_path_factory):
    """What two processes found, for each kind of model, with and without `find_unused_parameters`."""
    folder = tmp_path_factory.mktemp("gradients")
    paths = {
        (kind, unused): folder / f"{kind}_{unused}" for kind in ("student", "distiller") for unused in (False, True)
    }
    configs = [write(path, kind, unused=unused) for (kind, unused), path in paths.items()]
    run_both(*configs)
    return {key: [torch.load(f"{path}.{rank}.pth") for rank in range(2)] for key, path in paths.items()}


@pytest.mark.parametrize("kind", ["distiller", "student"])
def test_gradients_of_two_processes_are_those_of_one(kind, gradients, tool, tmp_path):
    """One process takes the images one by one and adds up what two take at the same time."""
    assert tool("train", write(tmp_path / "one", kind, counts=2), "--work-dir", tmp_path / "run") == 0
    one = torch.load(tmp_path / "one.0.pth")
    assert len(one) == STEPS
    for unused in (False, True):
        for expected, *found in zip(one, *gradients[kind, unused], strict=True):
            assert set(found[0]) == set(found[1]) == set(expected)
            assert len(expected) > 50
            for name, value in expected.items():
                limit = 1e-5 * value.norm() + 1e-9
                assert torch.equal(found[0][name], found[1][name]), name
                assert (found[0][name] - value).norm() <= limit, (name, unused)


RESUMED = """
train_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(160, 120), keep_ratio=True), dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'), dict(type='PackDetInputs')]
train_dataloader['dataset']['pipeline'] = train_pipeline
optim_wrapper['optimizer'] = dict(type='AdamW', lr=1e-3)
custom_hooks[0]['statistics'] = True
"""


def run_both(*configs, arguments=()):
    port = free_port()
    both = [start(rank, port, *configs, *arguments) for rank in range(2)]
    errors = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors[0][-2000:] + errors[1][-2000:]


@pytest.mark.long
def test_two_processes_agree_and_resume_to_the_same_weights(tmp_path):
    """Weights, buffers, prompts and ratios are equal everywhere; a resumed training is the uninterrupted one to the bit."""
    more = (
        RESUMED + "model = dict(terms=dict(loss_freekd=dict(prompts='untrained', loss=dict(channels=64, num_levels=3), "
        "weight=dict(ratio=0.5, iters=50))))\n"
    )
    whole = write(tmp_path / "whole", "prompted", epochs=2, more=more)
    first = write(tmp_path / "cut", "prompted", epochs=1, more=more)
    run_both(whole, first)
    write(tmp_path / "cut", "prompted", epochs=2, more=more)
    run_both(first, arguments=["--resume"])
    found = {
        name: [torch.load(tmp_path / f"{name}.{rank}.state.pth") for rank in range(2)] for name in ("whole", "cut")
    }
    states = [*found["whole"], *found["cut"]]
    assert all(any(word in key for key in states[0]) for word in ("running_mean", ".tokens", "weight.count"))
    assert int(states[0]["distiller.loss_freekd.weight.count"]) == 6
    for state in states[1:]:
        assert all(torch.equal(state[key], value) for key, value in states[0].items())


@pytest.mark.long
def test_all_processes_learn_that_one_refuses(tmp_path):
    """The one that finds no data says why; the other one does not wait for a time-out."""
    good = write(tmp_path / "good", "student")
    bad = write(tmp_path / "bad", "student", more="\ntrain_dataloader['dataset']['data_root'] = 'nowhere/'")
    port, begun = free_port(), time.monotonic()
    both = [start(0, port, good), start(1, port, bad)]
    errors = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [1, 1], errors
    assert time.monotonic() - begun < 90
    lines = [[line for line in text.splitlines() if line.startswith("error: ")] for text in errors]
    assert [len(found) for found in lines] == [1, 1], errors
    assert "process 1 of 2 refuses to start" in lines[0][0]
    assert all("data folder not found: nowhere/" in found[0] for found in lines)
    assert not any((tmp_path / name).exists() for name in ("good", "bad"))


@pytest.mark.long
def test_a_process_whose_config_is_missing_stops_the_other(tmp_path):
    good = write(tmp_path / "good", "student")
    port = free_port()
    both = [start(0, port, good), start(1, port, tmp_path / "nowhere.py")]
    errors = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [1, 1], errors
    assert "process 1 of 2 refuses to start" in errors[0]
    assert "config not found" in errors[0]


@pytest.mark.long
def test_a_killed_process_ends_the_other_with_a_message(tmp_path):
    config = write(tmp_path / "run", "student", epochs=1000, more="\ndefault_hooks=dict(checkpoint=dict(interval=1))")
    port = free_port()
    both = [start(rank, port, config) for rank in range(2)]
    begun = time.monotonic()
    while not list((tmp_path / "run").glob("epoch_*.pth")):
        assert time.monotonic() - begun < 120
        assert all(process.poll() is None for process in both), both[0].communicate()
        time.sleep(0.2)
    both[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    error = both[0].communicate(timeout=60)[1]
    assert time.monotonic() - killed < 30
    assert both[0].returncode == 1, error
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, error
    assert "process 0 of 2 lost another one" in lines[0]
    assert "--resume" in lines[0]
    both[1].communicate()
    saved = max((tmp_path / "run").glob("epoch_*.pth"), key=lambda path: path.stat().st_mtime)
    assert len(read_checkpoint(saved)["freqkd"]["random_states"]) == 2


if __name__ == "__main__":
    sys.exit(train(*sys.argv[1:]))
