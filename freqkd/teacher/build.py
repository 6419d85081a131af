"""Teacher of a config: running, or cached."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from freqkd.teacher.acceleration import Acceleration
from freqkd.teacher.cache import CachedTeacher
from freqkd.teacher.module_teacher import ModuleTeacher
from freqkd.teacher.teacher import Teacher


def build_teacher(
    config: Teacher | CachedTeacher | Mapping[str, Any], *, with_losses: bool = False
) -> Teacher | CachedTeacher:
    """Build a `Teacher`, or a `ModuleTeacher` of `dict(module=...)`; a `CachedTeacher` where there is `cache=dict(...)`.

    Args:
        config: arguments of one of them, and perhaps `cache=dict(dir=..., views=...)`; a teacher is taken as it is.
        with_losses: the network must be a detector or a segmenter, because its own losses are needed.

    Raises:
        ValueError: a key is missing or unknown, or a value is wrong.
        CheckpointError: no checkpoint is named.

    >>> build_teacher(dict(config="mmdet::...", checkpoint="net.pth", cache=dict(dir="work_dirs/cache", views=4))).views
    4
    """
    if isinstance(config, (Teacher, CachedTeacher)):
        return config
    if not isinstance(config, Mapping):
        raise ValueError(f"teacher must be dict(config=..., checkpoint=...), got {config!r}")
    is_module = "module" in config
    if is_module and with_losses:
        raise ValueError(
            f"teacher must be dict(config=..., checkpoint=...) of a detector or segmenter, got module={config['module']!r}: "
            "its own losses train the prompts; take a method without prompts for this teacher"
        )
    _check_keys(config, is_module)
    options = Config(dict(config)).to_dict()
    cache = options.pop("cache", None)
    teacher = ModuleTeacher(**options) if is_module else Teacher(**options)
    if cache is None:
        return teacher
    if not isinstance(cache, Mapping) or set(cache) != {"dir", "views"}:
        got = f"the keys {sorted(cache)}" if isinstance(cache, Mapping) else repr(cache)
        raise ValueError(f"teacher.cache must be dict(dir=..., views=...), got {got}")
    return CachedTeacher(teacher, **cache)


def _check_keys(config: Mapping[str, Any], is_module: bool) -> None:
    needed = {"module", "mean", "std"} if is_module else {"config", "checkpoint"}
    known = inspect.signature(ModuleTeacher if is_module else Teacher).parameters
    optional = {"cache", *known, *(() if is_module else Acceleration.__dataclass_fields__)} - needed - {"acceleration"}
    if not needed <= set(config) <= needed | optional:
        form = ", ".join(f"{key}=..." for key in known if key in needed)
        raise ValueError(
            f"teacher must be dict({form}) with optional {sorted(optional)}, got the keys {sorted(config)}"
        )
