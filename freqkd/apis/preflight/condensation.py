"""Checks of a condensed data set: sampler and hook, which need each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from freqkd.datasets import CondensedSampler
from freqkd.utils.errors import worded


def check_condensation(config: Config) -> None:
    """Check that a config has both a `CondensedSampler` and a `CondensationHook`, or neither.

    Raises:
        ValueError: one of them is missing, or the sampler has an argument that is out of range.
    """
    sampler = (config.get("train_dataloader") or {}).get("sampler")
    if not _is(sampler, "CondensedSampler"):
        sampler = None
    hooks = config.get("custom_hooks") or []
    has_hook = any(_is(hook, "CondensationHook") for hook in hooks)
    if sampler is None and not has_hook:
        return
    if not has_hook:
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


def _is(entry: Any, name: str) -> bool:
    return isinstance(entry, Mapping) and str(entry.get("type")).split(".")[-1] == name


def _options(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in ("type", "_scope_", "priority")}
