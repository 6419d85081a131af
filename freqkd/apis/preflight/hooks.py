"""Checks of this package's hooks, which MMEngine first builds and calls when the work dir is there."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.registry import HOOKS
from torch import nn

from freqkd.utils.errors import in_slot, worded


def hooks_of(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the hooks of a config, each with its slot.

    >>> list(hooks_of(dict(default_hooks=dict(timer=1), custom_hooks=[2])))
    [('default_hooks.timer', 1), ('custom_hooks[0]', 2)]
    """
    for name, hook in (config.get("default_hooks") or {}).items():
        yield f"default_hooks.{name}", hook
    for index, hook in enumerate(config.get("custom_hooks") or []):
        yield f"custom_hooks[{index}]", hook


def check_hooks(model: nn.Module, config: Config) -> None:
    """Build the hooks of this package, and let those that are for some models only (`check_model`) look at the model.

    Raises:
        ValueError: an argument is out of range, or the model is of another kind.
    """
    for slot, entry in hooks_of(config):
        if not isinstance(entry, Mapping):
            continue
        with HOOKS.switch_scope_and_registry(entry.get("_scope_")) as registry:
            kind = registry.get(entry["type"]) if isinstance(entry["type"], str) else entry["type"]
        if not (inspect.isclass(kind) and kind.__module__.startswith("freqkd.")):
            continue
        options = {key: value for key, value in entry.items() if key not in ("type", "_scope_", "priority")}
        with in_slot(slot), worded(slot, built=True):
            hook = kind(**options)
            if hasattr(hook, "check_model"):
                hook.check_model(model)
