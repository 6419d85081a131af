"""Checks of the checkpoints that a run starts from or resumes."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.runner import CheckpointLoader
from mmengine.utils import is_installed

from freqkd.backbones.efficientnet_lite import EfficientNetLite, find_weights
from freqkd.utils.checkpoints import CheckpointError, read_checkpoint
from freqkd.utils.errors import in_slot
from freqkd.utils.loading import guarded_loading, keep_checkpoint
from freqkd.utils.paths import initial_weights_by_slot, parts_of
from freqkd.utils.slots import refuse

_OF_TORCHVISION = ("torchvision://", "modelzoo://")  # addresses that MMEngine looks up in that package


def check_checkpoint(config: Config, trust: bool = False) -> dict[str, Any] | None:
    """Read the checkpoint that a run will load or resume from, and keep it for MMEngine, see `keep_checkpoint`.

    A training that resumes from its work dir takes the newest whole checkpoint there, which `load_from` then names.

    Returns:
        The checkpoint; None where the run starts without one.

    Raises:
        CheckpointError: the file is missing, damaged, needs arbitrary unpickling and `trust` is False, or is to be resumed
            and is not of a training; or no checkpoint of the work dir is whole.
    """
    path = config.get("load_from")
    slot = "--resume" if config.get("resume") else "load_from"
    if config.get("resume") and not path:
        found = find_resumable(config, trust)
        if found is None:
            config.resume = False
            return None
        config.load_from, checkpoint = found
    elif not path:
        return None
    elif "://" in str(path) and not str(path).startswith(("http://", "https://")):
        with in_slot(slot), guarded_loading(trust):
            checkpoint = CheckpointLoader.load_checkpoint(str(path), map_location="cpu")
    else:
        with in_slot(slot):
            checkpoint = read_checkpoint(path, trust)
    if config.get("resume") and not _is_training(checkpoint):
        raise CheckpointError(
            f"cannot resume: {path} holds weights, but not the state of a training; name a checkpoint of one, or start "
            f"again from the weights with --cfg-options load_from={path}"
        )
    keep_checkpoint(config.load_from, checkpoint)
    return checkpoint


def check_initial_weights(config: Config, trust: bool = False) -> None:
    """Read the initial weights of a network (`init_cfg=dict(type='Pretrained')`, `pretrained=`) and keep them for MMEngine.

    Raises:
        ValueError: an `init_cfg` is no dict.
        CheckpointError: one is missing, damaged, needs arbitrary unpickling and `trust` is False, or needs a package that is
            not installed.
    """
    for slot, part in parts_of(config.get("model"), "model"):
        for start in _starts(part):
            if not isinstance(start, Mapping):
                raise refuse(f"{slot}.init_cfg", "a dict, a list of dicts or None", start)
    named = {part[key]: slot for part, key, slot in initial_weights_by_slot(config.get("model"))}
    with guarded_loading(trust):
        for name, slot in sorted(named.items()):
            if name.startswith(_OF_TORCHVISION) and not is_installed("torchvision"):
                owner = slot.removesuffix(".checkpoint").rpartition(".")[0]
                raise CheckpointError(
                    f"{slot}: {name} needs the package torchvision, which is not installed; install its version for torch "
                    f"{torch.__version__} (pip install torchvision), or start from random weights: {owner}.init_cfg=None, "
                    f"with {owner}.frozen_stages=-1 and {owner}.norm_eval=False where the network has these"
                )
            with in_slot(slot):
                keep_checkpoint(name, CheckpointLoader.load_checkpoint(name, map_location="cpu"))
    for arch in sorted(_from_packages(config.get("model"))):
        find_weights(arch)


def warn_of_frozen_parts(config: Config) -> None:
    """Warn of stages that are frozen at random weights, because nothing names weights for them."""
    if config.get("load_from") or get_rank() > 0:
        return
    for slot in _frozen_at_random(config.get("model"), "model"):
        print(
            f"warning: {slot}.frozen_stages freezes stages at random weights, because no initial weights are named; set it to "
            f"-1, or name weights, e.g. {slot}.init_cfg=dict(type='Pretrained', checkpoint='...')",
            file=sys.stderr,
        )


def _starts(part: Mapping[str, Any]) -> list[Any]:
    """Return the entries of a part's `init_cfg`."""
    given = part.get("init_cfg")
    return list(given) if isinstance(given, (list, tuple)) else [given] if given else []


def _frozen_at_random(part: Any, slot: str, inherited: Sequence[str] = ()) -> Iterator[str]:
    """Yield the slots of parts with frozen stages for which neither they nor what they are in name initial weights.

    Args:
        part: a part of a model's config.
        slot: its place.
        inherited: the slots that start from the teacher's weights.

    >>> list(_frozen_at_random(dict(backbone=dict(frozen_stages=1), neck=dict(frozen_stages=-1)), "model"))
    ['model.backbone']
    >>> list(_frozen_at_random(dict(pretrained="net.pth", backbone=dict(frozen_stages=1)), "model"))
    []
    """
    if not isinstance(part, Mapping):
        return
    named = any(isinstance(start, Mapping) and "checkpoint" in start for start in _starts(part))
    if named or part.get("pretrained") or slot in inherited:
        return
    frozen = part.get("frozen_stages")
    if isinstance(frozen, int) and frozen >= 0:
        yield slot
    if slot == "model":
        inherited = [f"model.student.{path}" for path in part.get("inherit") or ()]
    for key, value in part.items():
        if not str(key).startswith("teacher"):  # which have checkpoints
            yield from _frozen_at_random(value, f"{slot}.{key}", inherited)


def _from_packages(part: Any) -> set[str]:
    """Return the networks of a model's config, the teacher's aside, that start from the weights in an installed package."""
    if isinstance(part, Mapping):
        here = part.get("pretrained") is True and str(part.get("type")).split(".")[-1] == EfficientNetLite.__name__
        inside = [_from_packages(value) for key, value in part.items() if key != "teacher"]
        return set().union(*inside, {str(part.get("arch", "lite0"))} if here else ())
    return set().union(*map(_from_packages, part)) if isinstance(part, (list, tuple)) else set()


def _is_training(checkpoint: Mapping[str, Any]) -> bool:
    return {"state_dict", "optimizer", "message_hub", "meta"} <= set(checkpoint)


def find_resumable(config: Config, trust: bool = False) -> tuple[str, dict[str, Any]] | None:
    """Return the path and content of the newest whole checkpoint of a work dir; None where it has no checkpoints.

    Newer files that are not whole, as a kill or a full disk leaves them, are named on standard error.

    Raises:
        CheckpointError: none of its checkpoints is whole.
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
            for fault in damaged if get_rank() == 0 else ():
                print(f"--resume continues from {path}, because {fault}", file=sys.stderr)
            return str(path), checkpoint
    if damaged:
        raise CheckpointError(
            f"cannot resume: no checkpoint in {config.work_dir} is whole ({damaged[0]}); delete the damaged files to start "
            "again, or name a whole checkpoint: --resume PATH"
        )
    if get_rank() == 0:
        print(f"--resume: no checkpoint in {config.work_dir}; the training starts at its first step", file=sys.stderr)
    return None


def _checkpoints(config: Config) -> list[Path]:
    """Return the checkpoints of a training, the newest first."""
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
