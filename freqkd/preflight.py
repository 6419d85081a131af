"""Find before a run what would stop it later: data, checkpoints, taps, channels; nothing is written until all is well."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import find_latest_checkpoint
from torch import nn

from freqkd.checkpoints import CheckpointError, check_resumable, read_checkpoint
from freqkd.distillers.distiller import Distiller
from freqkd.distillers.manifest import read_manifest
from freqkd.distillers.options import build_part
from freqkd.distillers.teacher import forked_randomness

LARGE = 50_000_000  # bytes; an annotation file of this size is not empty, and reading it twice takes long


class DataError(ValueError):
    """A data set is missing or empty; the message says which path and what to do."""


def _datasets(config: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the data sets that files are read for, through wrappers such as RepeatDataset and ConcatDataset."""
    if isinstance(config, (list, tuple)):
        for item in config:
            yield from _datasets(item)
    elif isinstance(config, Mapping):
        inner = config.get("dataset") or config.get("datasets")
        if inner is not None:
            yield from _datasets(inner)
        elif config.get("data_root") or config.get("ann_file") or config.get("data_prefix"):
            yield config


def check_data(config: Config, splits: tuple[str, ...] = ("train", "val")) -> None:
    """Check that every data set of the named splits is there and not empty.

    Raises:
        DataError: a folder or annotation file is missing, or a split holds no image.
    """
    for split in splits:
        loader = config.get(f"{split}_dataloader")
        for dataset in _datasets(loader.get("dataset") if loader else None):
            _check_files(dataset, f"{split}_dataloader")
            with DefaultScope.overwrite_default_scope(config.get("default_scope")):
                _check_images(dataset, f"{split}_dataloader")


def _annotations(dataset: Mapping[str, Any]) -> str:
    path = dataset.get("ann_file") or ""
    return path if not path or os.path.isabs(path) else os.path.join(dataset.get("data_root") or "", path)


def _check_images(dataset: Mapping[str, Any], where: str) -> None:
    """List the images as the run will, where that is quick, to see whether any is left."""
    path = _annotations(dataset)
    with DATASETS.switch_scope_and_registry(None) as registry:
        kind = registry.get(str(dataset["type"]))
    if kind is None or not issubclass(kind, BaseDataset) or (path and os.path.getsize(path) > LARGE):
        return
    images: Any = DATASETS.build({**copy.deepcopy(dict(dataset)), "lazy_init": True})
    images.data_list = images.load_data_list()
    if images.filter_data():
        return
    folders = [
        os.path.join(dataset.get("data_root") or "", part) for part in (dataset.get("data_prefix") or {}).values()
    ]
    looked = [f"classes {list(images.metainfo.get('classes', ()))}", f"folders {folders}"]
    if hasattr(images, "img_suffix"):
        looked.append(f"img_suffix {images.img_suffix!r}")
    raise DataError(
        f"{where}: the split is empty: no image of {path or dataset.get('data_root')} is left ({', '.join(looked)}); "
        f"change {where}.dataset so that it finds the images"
    )


def _check_files(dataset: Mapping[str, Any], where: str) -> None:
    root = dataset.get("data_root") or ""
    hint = f"put the data there (see data/README.md), or change {where}.dataset.data_root"
    prefixes = {key: os.path.join(root, value) for key, value in (dataset.get("data_prefix") or {}).items() if value}
    for folder in [root, *prefixes.values()]:
        if folder and not os.path.isdir(folder):
            raise DataError(f"{where}: data folder not found: {folder}; {hint}")
        if folder and not any(os.scandir(folder)):
            raise DataError(f"{where}: data folder is empty: {folder}; {hint}")
    path = _annotations(dataset)
    if not path:
        return
    if not os.path.isfile(path):
        raise DataError(f"{where}: annotation file not found: {path}; {hint}")
    if not path.endswith(".json"):
        if os.path.getsize(path) == 0:
            raise DataError(f"{where}: annotation file is empty: {path}; it must name at least one image")
        return
    if os.path.getsize(path) > LARGE:
        return
    try:
        with open(path) as file:
            content = json.load(file)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: annotation file is no valid json: {path} ({error}); copy it again") from None
    if not isinstance(content, dict):
        return
    images, boxes = content.get("images", []), content.get("annotations", [])
    if not images:
        raise DataError(f"{where}: the split is empty: {path} lists no image; name another ann_file")
    if (dataset.get("filter_cfg") or {}).get("filter_empty_gt") and not boxes:
        raise DataError(f"{where}: the split is empty: no image of {path} has an annotation; name another ann_file")


def check_checkpoint(config: Config, trust: bool = False) -> dict[str, Any] | None:
    """Read the file that the run will load or resume from, before MMEngine does so without restrictions.

    Returns what the run resumes from; None where it starts anew.

    Raises:
        CheckpointError: it is missing, damaged, needs arbitrary unpickling and `trust` is False, or no training wrote it
            and one shall be resumed.
    """
    path = config.get("load_from")
    if config.get("resume") and not path:
        path = find_latest_checkpoint(config.work_dir) if os.path.isdir(config.work_dir) else None
    if not path or "://" in str(path).replace("https://", "").replace("http://", ""):
        return None
    checkpoint = read_checkpoint(path, trust)
    if not config.get("resume"):
        return None
    if not {"state_dict", "optimizer", "message_hub", "meta"} <= set(checkpoint):
        raise CheckpointError(
            f"cannot resume: {path} holds weights, but not the state of a training; name a checkpoint of one, or start "
            f"anew from the weights with --cfg-options load_from={path}"
        )
    return checkpoint


def check_model(config: Config, resumed: Mapping[str, Any] | None = None) -> None:
    """Build the model aside and run its terms once on a blank image, leaving no trace.

    Args:
        config: the config of a training.
        resumed: the checkpoint that it goes on from.

    Raises:
        ValueError: an unknown tap or argument, features that do not fit, a term with a wrong name.
        CheckpointError: teacher, prompts, `resumed` or the teacher's cache cannot be used.
    """
    scope = config.get("default_scope")
    with forked_randomness(), DefaultScope.overwrite_default_scope(scope), torch.random.fork_rng(devices=[]):
        try:
            model = build_part("model", config.model)
        except TypeError as error:
            raise ValueError(f"model has an argument too many or too few: {error}") from None
        if resumed is not None:
            check_resumable(model, resumed["state_dict"])
        if hasattr(model, "rehearse"):
            model.rehearse()
        _check_manifest(model, config)
        if resumed is not None:
            _try_loading(model, resumed["state_dict"])


def _check_manifest(model: Any, config: Config) -> None:
    """Compare what the teacher's cache was made for with this run; only where there is one are the views built for it."""
    cache, views = getattr(getattr(model, "teacher", None), "cache", None), find_fixed_views(config)
    if cache is None or views is None or read_manifest(cache.dir) is None:
        return
    paths = model._teacher_paths() if isinstance(model, Distiller) else [model.tap]
    source = DATASETS.build(copy.deepcopy(views)).source
    cache.check(model.teacher, source, paths, model.data_preprocessor)


def _try_loading(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Load a state that MMEngine would load in part, with a warning, where shapes differ."""
    try:
        model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        first = str(error).splitlines()[1:2] or [str(error)]
        raise CheckpointError(
            f"cannot resume: the checkpoint is of another network ({first[0].strip()}); resume with the config that wrote it"
        ) from None


def check_work_dir(config: Config) -> None:
    """Check that results can be written.

    Raises:
        ValueError: the work dir, or the nearest folder above it that exists, is not writable.
    """
    _check_writable("work dir", config.work_dir, "--work-dir")


def find_fixed_views(config: Config) -> Mapping[str, Any] | None:
    """Return the config of the `freqkd.FixedViews` in the training data, which may stand in a RepeatDataset or the like."""
    dataset = (config.get("train_dataloader") or {}).get("dataset")
    while isinstance(dataset, Mapping):
        if str(dataset.get("type")).split(".")[-1] == "FixedViews":
            return dataset
        dataset = dataset.get("dataset")
    return None


def check_cache(config: Config) -> None:
    """Check that a cached teacher will meet fixed views, and that its folder can be written and has no damaged manifest.

    Raises:
        ValueError: the training data is not wrapped in `freqkd.FixedViews`, or has another number of views.
        CheckpointError: the folder's manifest is damaged, or maps lie there without one.
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
    if cache.get("dir"):
        _check_writable("teacher.cache.dir", cache["dir"], "teacher.cache.dir")
        read_manifest(Path(cache["dir"]))


def _check_writable(what: str, path: str, option: str) -> None:
    folder = os.path.abspath(path)
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise ValueError(f"{what} {path} is not writable (checked {folder}); name another with {option}")
