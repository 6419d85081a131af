"""A ratio weight answers to the task's gradient alone: not to the term's scale, nor to an interruption."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from freqkd.utils.checkpoints import read_checkpoint, weights_of

ROOT = Path(__file__).resolve().parents[2]
FIXED = """
train_dataloader = dict(batch_size=2, dataset=dict(pipeline=[
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
    dict(type='Resize', scale=(128, 96), keep_ratio=False), dict(type='PackSegInputs')]))
optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4))
param_scheduler = []
model = dict(
    student=dict(data_preprocessor=dict(size=(96, 128)), decode_head=dict(dropout_ratio=0.0)),
    terms=dict(loss_freekd=dict(
        prompts={prompts!r}, loss=dict(loss_weight={factor}), weight=dict(ratio=0.5, iters={iters}{hold}))))
custom_hooks = [{hook}]
"""
NAMES = [f"distiller.loss_freekd.weight.{name}" for name in ("task_sum", "term_sum", "count")]
HELD = [f"distiller.loss_freekd.weight.{name}" for name in ("correction", "done", "recent_task", "recent_term")]
WORKER = """
import os, sys
import torch
torch.set_num_threads(1)
from freqkd.utils.checkpoints import hash_weights
from freqkd.apis.arguments import run_tool
from freqkd.models.gradients import gradient_norm
import freqkd.apis.train, json
from yapf.yapflib import yapf_api
yapf_api.FormatCode = lambda text, **options: (text, True)  # takes longer than the six steps
runners = []
build = freqkd.apis.train.build_runner
freqkd.apis.train.build_runner = lambda config: runners.append(build(config)) or runners[-1]
sys.path.insert(0, 'tools')
import train
for config in sys.argv[2:]:
    code = run_tool(train.main, [config, '--work-dir', config[:-3], '--launcher', 'pytorch'])
    assert code == 0, code
rank = int(os.environ['RANK'])
x = torch.zeros(4, requires_grad=True)
norms = [float(gradient_norm((rank + 1) * x.sum(), [x])), float(gradient_norm(x.sum() if rank else torch.zeros(()), [x]))]
parameters = [hash_weights(dict(runner.model.module.named_parameters())) for runner in runners]
json.dump(dict(norms=norms, parameters=parameters), open(f'{sys.argv[1]}.{rank}', 'w'))
"""


@HOOKS.register_module(name="StopAfter", force=True)
class StopAfter(Hook):
    """Kills a training, as a pulled plug would: no hook after it runs."""

    priority = "VERY_LOW"

    def __init__(self, iterations):
        self.iterations = iterations

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.iterations:
            raise SystemExit("killed")


@pytest.fixture(scope="module")
def run_config(trained, tiny_config):
    prompts = str(trained("segmentation").prompts)

    def write(path, factor=1.0, iters=3, hook="", iterations=6, hold=""):
        more = FIXED.format(prompts=prompts, factor=factor, iters=iters, hook=hook, hold=hold)
        path = tiny_config(path, "segmentation", "distill", more, iterations)
        path.write_text(path.read_text().replace("checkpoint=dict(interval=5", "checkpoint=dict(interval=2"))
        return path

    return write


def weight_of(state):
    return 0.5 * float(state[NAMES[0]] / state[NAMES[1]])


def assert_same_training(plain, scaled, factor, tolerance):
    """The same student and terms, the weight that much smaller."""
    assert float(plain[NAMES[2]]) == float(scaled[NAMES[2]]) == 3
    assert weight_of(scaled) == pytest.approx(weight_of(plain) / factor, rel=1e-4)
    for key, value in plain.items():
        if key not in NAMES and value.is_floating_point():
            torch.testing.assert_close(
                scaled[key], value, rtol=tolerance, atol=tolerance, msg=lambda text, key=key: f"{key}: {text}"
            )


@pytest.mark.long
def test_a_term_a_hundred_times_larger_trains_the_same_student(tool, run_config, tmp_path):
    states = []
    for factor in (1.0, 100.0):
        config = run_config(tmp_path / f"factor{factor:.0f}.py", factor)
        assert tool("train", config, "--work-dir", tmp_path / f"run{factor:.0f}") == 0
        states.append(read_checkpoint(tmp_path / f"run{factor:.0f}" / "iter_6.pth")["state_dict"])
    assert_same_training(*states, factor=100, tolerance=1e-5)
    start = read_checkpoint(tmp_path / "run1" / "iter_2.pth")["state_dict"]
    moved = [(states[0][key] - start[key]).abs().max() for key in weights_of(dict(state_dict=start)) if "conv" in key]
    assert max(moved) > 1e-3


@pytest.mark.long
def test_two_processes_agree_on_the_weight_and_on_every_parameter(run_config, tmp_path):
    # A power of two rounds nothing: the gradient of an L1 loss is a sign, which rounding may turn.
    hold = ", hold=True, band=1.01, interval=1"
    configs = [run_config(tmp_path / f"two{factor:.0f}.py", factor, hold=hold) for factor in (1.0, 128.0)]
    (tmp_path / "worker.py").write_text(WORKER)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, tmp_path / "worker.py", tmp_path / "answer", *configs]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"answer.{rank}").read_text()) for rank in (0, 1))
    assert first["norms"] == second["norms"] == [3.0, 1.0]  # means of 2 and 4, and of 0 (no graph) and 2
    assert first["parameters"] == second["parameters"]
    states = [read_checkpoint(tmp_path / f"two{factor}" / "iter_6.pth")["state_dict"] for factor in (1, 128)]
    assert_same_training(*states, factor=128, tolerance=0)
    assert float(states[0][HELD[0]]) == float(states[1][HELD[0]]) != 1.0


@pytest.mark.long
@pytest.mark.parametrize("iters", [3, 50])
def test_a_killed_and_resumed_training_ends_as_one_that_was_not(tool, run_config, tmp_path, iters):
    hold = ", hold=True, band=1.01, interval=3" if iters == 3 else ""  # the checkpoint lies within the first interval
    whole = run_config(tmp_path / "whole.py", iters=iters, hold=hold)
    assert tool("train", whole, "--work-dir", tmp_path / "whole") == 0
    hook = "dict(type='mmengine.StopAfter', iterations=5)"
    killed = run_config(tmp_path / "killed.py", iters=iters, hook=hook, hold=hold)
    with pytest.raises(SystemExit, match="killed"):
        tool("train", killed, "--work-dir", tmp_path / "run")
    assert not (tmp_path / "run" / "iter_6.pth").exists()
    middle = read_checkpoint(tmp_path / "run" / "iter_4.pth")["state_dict"]
    assert int(middle[NAMES[2]]) == min(iters, 4)
    resumed = run_config(tmp_path / "resumed.py", iters=iters, hold=hold)
    assert tool("train", resumed, "--work-dir", tmp_path / "run", "--resume") == 0
    end, expected = (read_checkpoint(tmp_path / name / "iter_6.pth")["state_dict"] for name in ("run", "whole"))
    assert int(end[NAMES[2]]) == min(iters, 6)
    if iters == 3:
        assert weight_of(end) == weight_of(middle)
        assert [float(middle[name]) for name in HELD[:2]] == [1.0, 1.0]
        assert float(middle[HELD[3]]) > 0
        assert float(end[HELD[0]]) != 1.0
        assert all(torch.equal(end[name], expected[name]) for name in (*NAMES, *HELD))
    assert list(end) == list(expected)
    for key, value in expected.items():
        torch.testing.assert_close(end[key], value, rtol=1e-6, atol=1e-6)
