"""Checks of a training's first step and first validation on one image."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.dist import get_world_size

from freqkd.models.rehearsal import first_iteration, rehearsing, take_image
from freqkd.teacher import CachedTeacher
from freqkd.teacher.teacher import HEADS, freeze_statistics, rehearsal, run_to, runs_on_features
from freqkd.utils.errors import worded

_OTHER_CHANNELS = re.compile(r"to have \d+ channels, but got")  # torch, of a convolution
_ONE_VALUE = re.compile("Expected more than 1 value per channel")  # torch, of a norm of a 1x1 map


def try_steps(model: Any, optimizers: Any, samples: Mapping[str, Any]) -> None:
    """Train a model for one step and let it predict, as its Runner would.

    Args:
        model: built from the config of the training; its weights and buffers change.
        optimizers: the optimizer wrapper of the model; None: no training step is taken.
        samples: one sample of each split, see `check_data`.

    Raises:
        ValueError: a part of the config fails on the image, with other parts, or with its own options.
    """
    cached = isinstance(getattr(model, "teacher", None), CachedTeacher)  # whose fixed views are not built here
    if get_world_size() > 1 or cached or not samples:
        _try_network(model, samples.get("train"))
        return
    model.to(get_device())
    with rehearsal(), first_iteration():
        if "train" in samples and optimizers is not None:
            freeze_statistics(model.train())
            with worded("the first training step"):
                _train(model, optimizers, samples["train"])
        if "val" in samples:
            model.eval()
            with worded("the first validation step"), torch.no_grad():
                model.val_step(pseudo_collate([samples["val"]]))


def _train(model: Any, optimizers: Any, sample: Mapping[str, Any]) -> None:
    """Train for one step on an image, on two copies of it where a norm refuses a batch of one."""
    try:
        model.train_step(pseudo_collate([copy.deepcopy(sample)]), optimizers)
    except ValueError as error:
        if not _ONE_VALUE.search(str(error)):
            raise
        model.train_step(pseudo_collate([copy.deepcopy(sample) for _ in range(2)]), optimizers)


def _try_network(model: Any, sample: Mapping[str, Any] | None) -> None:
    """Check that the channels of a network's parts fit each other, on an image of the data, else on a blank one.

    Other errors are ignored: a part may refuse the size of the blank image or the missing samples.
    """
    heads = [name for name in HEADS if getattr(model, name, None) is not None]
    if not hasattr(model, "extract_feat") or not runs_on_features(model, heads):
        return
    try:
        with rehearsing(model):
            run_to(model, take_image(model, sample, (64, 96)).inputs, None, heads or ["neck"])
    except Exception as error:
        if _OTHER_CHANNELS.search(str(error)):
            with worded("model"):
                raise
