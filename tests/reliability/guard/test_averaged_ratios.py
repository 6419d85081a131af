"""A measured ratio under averaged weights (EMA) is not averaged, is saved, and is resumed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from freqkd.utils.checkpoints import read_checkpoint

NAMES = [f"distiller.loss_mse.weight.{name}" for name in ("task_sum", "term_sum", "count")]
SAVING = dict(checkpoint=dict(type="CheckpointHook", interval=1, by_epoch=False))


@HOOKS.register_module(name="NoDropout", force=True)
class NoDropout(Hook):
    """Switches dropout off, so that a resumed training needs no random state."""

    def before_train(self, runner: Any) -> None:
        for part in runner.model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0


@pytest.mark.parametrize("average", ["ExponentialMovingAverage", "StochasticWeightAverage", "ExpMomentumEMA"])
@pytest.mark.parametrize("update_buffers", [True, False])
def test_sums_and_count_are_the_trainings_own(toy: Any, average: str, update_buffers: bool) -> None:
    import mmdet.models.layers.ema  # noqa: F401 - registers the last of them

    model = toy.model(loss_mse=dict(loss=dict(type="freqkd.MSELoss"), weight=dict(ratio=0.5, iters=5)))
    hook = dict(type="EMAHook", ema_type=average, update_buffers=update_buffers)
    if average != "StochasticWeightAverage":
        hook["momentum"] = 0.25
    if average == "ExpMomentumEMA":
        hook["ema_type"] = "mmdet.ExpMomentumEMA"

    def train(name: str, iters: int, *hooks: Any, **changes: Any) -> dict[str, Any]:
        config = toy.config(model, dict(type="mmengine.NoDropout"), *hooks, iters=iters, name=name, **changes)
        config.default_hooks = copy.deepcopy(SAVING)
        runner = toy.run(config)
        assert runner.error is None
        return read_checkpoint(toy.folder / name / f"iter_{iters}.pth")

    plain, averaged = train("plain", 3)["state_dict"], train("averaged", 3, hook)
    assert int(plain[NAMES[2]]) == 3
    weight = "neck.conv.weight"
    assert not torch.equal(averaged["state_dict"][weight], plain[weight])  # it is averaged
    assert torch.equal(averaged["ema_state_dict"][f"module.{weight}"], plain[weight])
    for name in NAMES:
        assert torch.equal(averaged["state_dict"][name], plain[name])
        assert torch.equal(averaged["ema_state_dict"][f"module.{name}"], plain[name])
    expected = train("whole", 7, hook)["state_dict"]
    found = train("averaged", 7, hook, resume=True)["state_dict"]
    assert int(found[NAMES[2]]) == 5
    assert all(torch.equal(found[name], expected[name]) for name in NAMES)
    torch.testing.assert_close(found[weight], expected[weight], rtol=0, atol=0)
