"""Export of the student: its config and weights without anything of this package, except a backbone of `freqkd.backbones`."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from torch import nn

from freqkd.teacher.teacher import build_network
from freqkd.utils.checkpoints import check_fit, read_checkpoint, weights_of, write_atomic
from freqkd.utils.errors import in_slot, worded
from freqkd.utils.files import write_whole
from freqkd.utils.randomness import forked_randomness

_SCOPE = "freqkd."


def is_distillation(config: Config) -> bool:
    """Whether a config's model is a `freqkd.Distiller`."""
    return str(config.get("model", {}).get("type", "")).split(".")[-1] == "Distiller"


def without_views(dataset: Any) -> Any:
    """Return the config of a data set without `freqkd.FixedViews`, at any depth."""
    if not isinstance(dataset, dict) or "dataset" not in dataset:
        return dataset
    inner = without_views(dataset["dataset"])
    return inner if str(dataset.get("type", "")).startswith(_SCOPE) else {**dataset, "dataset": inner}


def _is_freqkd(hook: Any) -> bool:
    return str((hook or {}).get("type", "")).startswith(_SCOPE)


def student_config(config: Config) -> Config:
    """Return the flat config of the student alone, which names nothing of this package.

    Except a backbone of `freqkd.backbones`, which needs the package installed. Of a config without a distiller, only the
    hooks and imports of this package are removed.
    """
    plain: dict[str, Any] = copy.deepcopy(config.to_dict())
    if is_distillation(config):
        plain["model"] = plain["model"]["student"]
    if plain.get("train_dataloader"):
        plain["train_dataloader"]["dataset"] = without_views(plain["train_dataloader"].get("dataset"))
        if _is_freqkd(plain["train_dataloader"].get("sampler")):  # of a condensed data set
            plain["train_dataloader"]["sampler"] = dict(type="DefaultSampler", shuffle=True)
    imports = (plain.pop("custom_imports", None) or {}).get("imports", [])
    others = [name for name in imports if name.split(".")[0] != "freqkd"]
    if others:
        plain["custom_imports"] = dict(imports=others, allow_failed_imports=False)
    defaults = plain.get("default_hooks", {})
    if (defaults.get("checkpoint") or {}).get("type") == "freqkd.CheckpointHook":
        defaults["checkpoint"]["type"] = "CheckpointHook"
    plain["default_hooks"] = {name: hook for name, hook in defaults.items() if not _is_freqkd(hook)}
    if "custom_hooks" in plain:
        plain["custom_hooks"] = [hook for hook in plain["custom_hooks"] if not _is_freqkd(hook)]
    for key in ("resume", "load_from", "work_dir", "launcher", "teacher"):
        plain.pop(key, None)
    # Helper variables of the distillation, such as a loss that several terms use, are not the student's.
    kept = {key: value for key, value in plain.items() if key == "model" or not _names_freqkd(value)}
    if plain.get("train_dataloader") and "train_dataloader" not in kept:  # of images without labels
        for key in ("train_cfg", "optim_wrapper", "param_scheduler"):  # which a Runner takes with it only
            kept.pop(key, None)
    return Config(kept)


def _names_freqkd(value: Any) -> bool:
    """Whether a part of a config names a type of this package, at any depth."""
    if isinstance(value, dict):
        return _is_freqkd(value) or any(map(_names_freqkd, value.values()))
    return isinstance(value, (list, tuple)) and any(map(_names_freqkd, value))


def write_config(config: Config, path: str | os.PathLike[str]) -> None:
    """Write a config as one flat Python file, whole or not at all."""
    with write_whole(path) as file:
        file.write(config.pretty_text.encode())


def export_student(config: Config, checkpoint: str, out_dir: str, half: bool = False, trust: bool = False) -> Path:
    """Write `student.pth` (weights and class names, nothing else) and `student_config.py` into a folder.

    Args:
        config: the config of the distillation, or of the student.
        checkpoint: a checkpoint of the training.
        out_dir: folder of the two files.
        half: store floating point weights in half precision.
        trust: read checkpoints that need arbitrary unpickling.

    Raises:
        ValueError: the config has no student, such as that of a prompt stage.
        CheckpointError: the checkpoint cannot be read, or is of another network.
    """
    if _is_freqkd(config.model) and not is_distillation(config):
        raise ValueError(
            f"the config of an export must be a distillation's or the student's own, got model.type={config.model.type!r}, "
            "which has no student; name the config of a distillation and its checkpoint"
        )
    with in_slot("argument checkpoint"):
        loaded = read_checkpoint(checkpoint, trust)
    check_weights(config, loaded, checkpoint)
    weights = weights_of(loaded)
    if half:
        weights = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
    meta = {key: value for key, value in loaded.get("meta", {}).items() if key in ("dataset_meta", "epoch", "iter")}
    folder = Path(out_dir)
    write_atomic(
        dict(state_dict={key: value.clone() for key, value in weights.items()}, meta=meta), folder / "student.pth"
    )
    write_config(student_config(config), folder / "student_config.py")
    return folder / "student.pth"


def build_student(config: Config) -> nn.Module:
    """Build the network of a config's student, or model, with random weights."""
    model = config.model.student if is_distillation(config) else config.model
    with forked_randomness(), worded("model"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of mmseg's heads about their losses
        return build_network(model, config.get("default_scope"))


def check_weights(config: Config, loaded: Mapping[str, Any], source: str) -> None:
    """Check that a checkpoint is one of the network of a config's student, or model.

    Args:
        config: the config of a distillation, or of a network.
        loaded: what `read_checkpoint` returned.
        source: the checkpoint's name in the message.

    Raises:
        CheckpointError: keys or shapes differ; the message lists the first of them.
    """
    check_fit(
        build_student(config), loaded, source, f"the config {config.filename}" if config.filename else "the config"
    )


def count_parameters(config: Config) -> int:
    """Return the number of parameters of a config's student, or model."""
    return sum(parameter.numel() for parameter in build_student(config).parameters())
