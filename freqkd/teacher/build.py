"""Teacher of a config: running, or cached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from freqkd.teacher.acceleration import Acceleration
from freqkd.teacher.cache import CachedTeacher
from freqkd.teacher.teacher import Teacher


def build_teacher(config: Teacher | CachedTeacher | Mapping[str, Any]) -> Teacher | CachedTeacher:
    """Build a `Teacher`, or a `CachedTeacher` where the config has `cache=dict(dir=..., views=...)`.

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
    optional = {"cfg_options", "trust_checkpoint", "cache", *Acceleration.__dataclass_fields__}
    if not {"config", "checkpoint"} <= set(config) <= {"config", "checkpoint", *optional}:
        raise ValueError(
            f"teacher must be dict(config=..., checkpoint=...) with optional {sorted(optional)}, got the keys {sorted(config)}"
        )
    options = Config(dict(config)).to_dict()
    cache = options.pop("cache", None)
    teacher = Teacher(**options)
    if cache is None:
        return teacher
    if not isinstance(cache, Mapping) or set(cache) != {"dir", "views"}:
        got = f"the keys {sorted(cache)}" if isinstance(cache, Mapping) else repr(cache)
        raise ValueError(f"teacher.cache must be dict(dir=..., views=...), got {got}")
    return CachedTeacher(teacher, **cache)
