"""A training in bfloat16 on the CPU, with accumulated gradients and averaged weights, and its guard."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from freqkd.hooks.replay import read_replay
from freqkd.utils.checkpoints import read_checkpoint

HALF = dict(type="freqkd.Bfloat16OptimWrapper")
TERMS = dict(
    loss_details=dict(loss=dict(type="freqkd.FreeKDLoss", preset="details", depth=1), weight=dict(ratio=0.5, iters=3)),
    loss_paper=dict(
        loss=dict(type="freqkd.FreeKDLoss", channels=4, num_levels=2, depth=1), prompts="untrained", weight=0.5
    ),
    loss_cwd=dict(loss=dict(type="freqkd.CWDLoss")),
)


def test_accumulated_and_averaged(toy: Any) -> None:
    """A step of the optimizer every second batch; averages, ratio weights and the teacher's absence as in float32."""

    def train(name: str, **wrapper: Any) -> tuple[Any, dict[str, Any]]:
        hook = dict(type="EMAHook", momentum=0.25)
        config = toy.config(toy.model(**TERMS), hook, name=name, optim_wrapper=dict(accumulative_counts=2, **wrapper))
        config.default_hooks = dict(checkpoint=dict(type="freqkd.CheckpointHook", interval=4, by_epoch=False))
        runner = toy.run(config)
        assert runner.error is None
        return runner, read_checkpoint(toy.folder / name / "iter_4.pth")

    runner, saved = train("half", **HALF)
    _, full = train("full")
    weight = "neck.conv.weight"
    weights = [state[weight] for state in runner.states]
    assert [torch.equal(one, other) for one, other in pairwise(weights)] == [
        True,
        False,
        True,
        False,
    ]
    assert list(saved["state_dict"]) == list(full["state_dict"])
    assert int(saved["state_dict"]["distiller.loss_details.weight.count"]) == 3
    for state in ("state_dict", "ema_state_dict"):
        for key, value in full[state].items():
            assert saved[state][key].dtype == value.dtype
            torch.testing.assert_close(saved[state][key], value, rtol=0.05, atol=0.02, msg=key)
    assert not torch.equal(saved["state_dict"][weight], full["state_dict"][weight])
    assert not torch.equal(saved["state_dict"][weight], saved["ema_state_dict"][f"module.{weight}"])


def test_a_step_that_is_not_finite_is_written_with_its_precision(toy: Any) -> None:
    bad = dict(loss_bad=dict(loss=dict(type="freqkd.BadLoss", at=2)))
    runner = toy.run(toy.config(toy.model(**bad), dict(type="freqkd.NonFiniteHook"), optim_wrapper=HALF))
    with pytest.raises(ValueError, match=r"the loss 'distill.loss_bad' is nan"):
        raise runner.error
    replay = read_replay(toy.folder / "run" / "non_finite_step_2.pth")
    assert replay["precision"] == dict(autocast="bfloat16", scale=1.0)
