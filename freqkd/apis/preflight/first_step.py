"""Checks of a training's first step and first validation on one image."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.dist import get_world_size

from freqkd.teacher import CachedTeacher
from freqkd.teacher.teacher import HEADS, freeze_statistics, rehearsal, run_to, runs_on_features
from freqkd.utils.errors import worded

_OTHER_CHANNELS = re.compile(r"to have \d+ channels, but got")  # torch, of a convolution


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
        _try_network(model)
        return
    model.to(get_device())
    with rehearsal():
        if "train" in samples and optimizers is not None:
            freeze_statistics(model.train())
            with worded("the first training step"):
                model.train_step(pseudo_collate([samples["train"]]), optimizers)
        if "val" in samples:
            model.eval()
            with worded("the first validation step"), torch.no_grad():
                model.val_step(pseudo_collate([samples["val"]]))


def _try_network(model: Any) -> None:
    """Check that the channels of a network's parts fit each other, on a blank image.

    Other errors are ignored: a part may refuse the size of the blank image or the missing samples.
    """
    heads = [name for name in HEADS if getattr(model, name, None) is not None]
    if not hasattr(model, "extract_feat") or not runs_on_features(model, heads):
        return
    freeze_statistics(model.train())
    try:
        with torch.no_grad(), rehearsal():
            run_to(model, torch.zeros(1, 3, 64, 96), None, heads or ["neck"])
    except Exception as error:
        if _OTHER_CHANNELS.search(str(error)):
            raise
