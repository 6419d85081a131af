"""Checks of a condensed data set: sampler and hook, which need each other, and the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from torch import nn

from freqkd.datasets import CondensedSampler
from freqkd.hooks.condensation import CondensationHook
from freqkd.utils.errors import worded


def check_condensation(model: nn.Module, config: Config) -> None:
    """Check that a config has both a `CondensedSampler` and a `CondensationHook`, or neither, and that they fit the model.

    Raises:
        ValueError: one of them is missing, or has an argument that is out of range or does not fit.
    """
    sampler = (config.get("train_dataloader") or {}).get("sampler")
    if not _is(sampler, "CondensedSampler"):
        sampler = None
    hooks = config.get("custom_hooks") or []
    index = next((index for index, hook in enumerate(hooks) if _is(hook, "CondensationHook")), None)
    if sampler is None and index is None:
        return
    if index is None:
        raise ValueError(
            "custom_hooks must have a freqkd.CondensationHook beside the CondensedSampler, which reads the values that it "
            "measures, got none; add dict(type='freqkd.CondensationHook', tap='bbox_head.retina_cls')"
        )
    if sampler is None:
        raise ValueError(
            "train_dataloader.sampler must be a freqkd.CondensedSampler beside a freqkd.CondensationHook, got another one; "
            "set it to dict(_delete_=True, type='freqkd.CondensedSampler'), or leave out the hook"
        )
    with worded("train_dataloader.sampler"):
        CondensedSampler(range(1), **{"seed": 0, **_options(sampler)})
    with worded(f"custom_hooks[{index}]"):
        CondensationHook(**_options(hooks[index])).check_model(model)


def _is(entry: Any, name: str) -> bool:
    return isinstance(entry, Mapping) and str(entry.get("type")).split(".")[-1] == name


def _options(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in ("type", "_scope_", "priority")}
