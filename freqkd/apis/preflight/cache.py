"""Checks of a cached teacher: its fixed views, folder and manifest."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS

from freqkd.teacher import CachedTeacher
from freqkd.teacher.manifest import read_manifest
from freqkd.utils.files import check_writable


def find_fixed_views(config: Config) -> Mapping[str, Any] | None:
    """Return the config of the training data's `freqkd.FixedViews`, inside wrappers such as RepeatDataset; None without."""
    dataset = (config.get("train_dataloader") or {}).get("dataset")
    while isinstance(dataset, Mapping):
        if str(dataset.get("type")).split(".")[-1] == "FixedViews":
            return dataset
        dataset = dataset.get("dataset")
    return None


def check_cache(config: Config) -> None:
    """Check that a cached teacher has fixed views, and a folder that can be written and whose manifest is whole.

    Raises:
        ValueError: the training data is not wrapped in `freqkd.FixedViews`, or has another number of views; something changes
            the views; the folder cannot be written.
        CheckpointError: the folder's manifest is damaged, or missing beside its maps.
    """
    cache = (config.get("model", {}).get("teacher") or {}).get("cache")
    if not cache:
        return
    views = find_fixed_views(config)
    if views is None:
        raise ValueError(
            "teacher.cache needs fixed views: wrap the data set, train_dataloader.dataset = dict(type='freqkd.FixedViews', "
            f"dataset=dict(...), views={cache.get('views')})"
        )
    if views.get("views") != cache.get("views"):
        raise ValueError(
            f"teacher.cache.views must be the views of train_dataloader.dataset, {views.get('views')}, got "
            f"{cache.get('views')}"
        )
    outer = (config.train_dataloader.get("dataset") or {}) if config.get("train_dataloader") else {}
    while outer is not views:
        if outer.get("pipeline"):
            raise ValueError(
                f"train_dataloader.dataset must not change views of a cached teacher, got {outer.get('type')} with a pipeline "
                "around freqkd.FixedViews; put freqkd.FixedViews around it"
            )
        outer = outer["dataset"]
    for index, hook in enumerate(config.get("custom_hooks") or ()):
        if str(hook.get("type")).split(".")[-1] in ("YOLOXModeSwitchHook", "PipelineSwitchHook"):
            raise ValueError(
                f"custom_hooks[{index}] must be left out where the teacher is cached: {hook['type']} changes the pipeline, "
                "and so the views that the cache was made for"
            )
    if cache.get("dir"):
        check_writable("teacher.cache.dir", cache["dir"], "teacher.cache.dir")
        read_manifest(Path(cache["dir"]))


def check_manifest(model: Any, config: Config) -> None:
    """Compare the manifest of the teacher's cache, where there is one, with this run; only then are the views built."""
    teacher, views = getattr(model, "teacher", None), find_fixed_views(config)
    if isinstance(teacher, CachedTeacher) and views is not None and read_manifest(teacher.dir) is not None:
        teacher.check(DATASETS.build(copy.deepcopy(views)).source)
