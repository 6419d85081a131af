"""Find before a run what would stop it later: checkpoints, taps, channels; nothing is written until all is well."""

from __future__ import annotations

import copy
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import CheckpointLoader
from torch import nn

from freqkd.checkpoints import CheckpointError, check_resumable, check_start, read_checkpoint
from freqkd.distillers.distiller import Distiller
from freqkd.distillers.manifest import read_manifest
from freqkd.distillers.options import build_part
from freqkd.distillers.schedules import check_progress
from freqkd.errors import worded
from freqkd.first_step import try_steps
from freqkd.loading import guarded_loading, keep_checkpoint
from freqkd.randomness import forked_randomness
from freqkd.runner_checks import check_optimization


def check_checkpoint(config: Config, trust: bool = False) -> dict[str, Any] | None:
    """Read the file that the run will load or resume from, and hand MMEngine what was read, see `keep_checkpoint`.

    Where a training goes on from the latest checkpoint of its work dir, that is the newest one that is whole; `load_from`
    of the config then names it.

    Returns what the run loads or resumes from; None where it starts anew.

    Raises:
        CheckpointError: it is missing, damaged, needs arbitrary unpickling and `trust` is False, or no training wrote it
            and one shall be resumed; or the work dir has checkpoints, and none is whole.
    """
    path = config.get("load_from")
    if config.get("resume") and not path:
        found = find_resumable(config, trust)
        if found is None:
            config.resume = False
            return None
        config.load_from, checkpoint = found
    elif not path:
        return None
    elif "://" in str(path) and not str(path).startswith(("http://", "https://")):
        with guarded_loading(trust):
            checkpoint = CheckpointLoader.load_checkpoint(str(path), map_location="cpu")
    else:
        checkpoint = read_checkpoint(path, trust)
    if config.get("resume") and not _is_training(checkpoint):
        raise CheckpointError(
            f"cannot resume: {path} holds weights, but not the state of a training; name a checkpoint of one, or start "
            f"anew from the weights with --cfg-options load_from={path}"
        )
    keep_checkpoint(config.load_from, checkpoint)
    return checkpoint


def check_initial_weights(config: Config, trust: bool = False) -> None:
    """Read the files that a network starts from (`init_cfg=dict(type='Pretrained')`, `pretrained=`) and hand them to MMEngine.

    Raises:
        CheckpointError: one is missing, damaged, or needs arbitrary unpickling and `trust` is False.
    """
    with guarded_loading(trust):
        for name in sorted(set(_initial_weights(config.get("model")))):
            keep_checkpoint(name, CheckpointLoader.load_checkpoint(name, map_location="cpu"))


def _initial_weights(part: Any) -> Iterator[str]:
    """Yield the checkpoints that a part of a config names; a teacher's own are those of its checkpoint."""
    if isinstance(part, Mapping):
        if part.get("type") == "Pretrained" and isinstance(part.get("checkpoint"), str):
            yield part["checkpoint"]
        if isinstance(part.get("pretrained"), str):
            yield part["pretrained"]
        for key, value in part.items():
            if key != "teacher":
                yield from _initial_weights(value)
    elif isinstance(part, (list, tuple)):
        for item in part:
            yield from _initial_weights(item)


def _is_training(checkpoint: Mapping[str, Any]) -> bool:
    return {"state_dict", "optimizer", "message_hub", "meta"} <= set(checkpoint)


def find_resumable(config: Config, trust: bool = False) -> tuple[str, dict[str, Any]] | None:
    """Return the newest whole checkpoint of a training in its work dir, and what it holds; None where there is none.

    What is newer and not whole, as a kill or a full disk leaves it, is named on standard error.

    Raises:
        CheckpointError: there are checkpoints, and none of them is whole.
    """
    candidates = _checkpoints(config)
    damaged: list[str] = []
    for path in candidates:
        try:
            checkpoint = read_checkpoint(path, trust)
        except CheckpointError as error:
            damaged.append(str(error))
            continue
        if _is_training(checkpoint):
            for fault in damaged:
                print(f"--resume goes on from {path}, because {fault}", file=sys.stderr)
            return str(path), checkpoint
    if damaged:
        raise CheckpointError(
            f"cannot resume: no checkpoint in {config.work_dir} is whole ({damaged[0]}); delete the damaged files to start "
            "anew, or name a whole checkpoint: --resume PATH"
        )
    if get_rank() == 0:
        print(f"--resume: no checkpoint in {config.work_dir}; the training starts at its first step", file=sys.stderr)
    return None


def _checkpoints(config: Config) -> list[Path]:
    """List the checkpoints of a training, the newest first."""
    work_dir = Path(config.work_dir)
    folders = [work_dir]
    hook = (config.get("default_hooks") or {}).get("checkpoint") or {}
    if hook.get("out_dir"):
        folders.append(Path(hook["out_dir"], work_dir.name))
    found = {path for folder in folders for path in folder.glob("*.pth") if not path.name.startswith((".", "best_"))}
    with suppress(OSError, UnicodeDecodeError):
        named = Path((work_dir / "last_checkpoint").read_text().strip())
        found |= {named} if named.suffix and named.is_file() else set()
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, _step(path)), reverse=True)


def _step(path: Path) -> int:
    return int((re.findall(r"\d+", path.stem) or ["0"])[-1])


def check_model(
    config: Config, checkpoint: Mapping[str, Any] | None = None, samples: Mapping[str, Any] | None = None
) -> None:
    """Build the model aside, run its terms once on a blank image, and take its first step, leaving no trace.

    Args:
        config: the config of a training.
        checkpoint: what it loads or resumes from.
        samples: what `check_data` returned; None: no step is taken.

    Raises:
        ValueError: an unknown tap or argument, features that do not fit, a term with a wrong name.
        CheckpointError: teacher, prompts, `checkpoint` or the teacher's cache cannot be used.
    """
    scope = config.get("default_scope")
    with forked_randomness(), DefaultScope.overwrite_default_scope(scope), torch.random.fork_rng(devices=[]):
        model = build_part("model", config.model)
        optimizers = check_optimization(config, model)
        check_progress(model, config)
        with worded("model"):
            if hasattr(model, "rehearse"):
                model.rehearse()
        _check_manifest(model, config)
        if checkpoint is not None:
            _check_state(model, config, checkpoint)
        try_steps(config, model, optimizers, samples or {})


def _check_state(model: nn.Module, config: Config, checkpoint: Mapping[str, Any]) -> None:
    """Compare what a run resumes or starts from with its model."""
    if config.get("resume"):
        check_resumable(model, checkpoint)
        _try_loading(model, checkpoint["state_dict"])
        return
    left = check_start(model, checkpoint, str(config.load_from))
    if left and get_rank() == 0:
        print(left, file=sys.stderr)


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
