"""A training's first step and its first validation, taken aside on one image: what fails there would fail in the run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.dist import get_world_size

from freqkd.distillers.teacher import HEADS, freeze_statistics, rehearsal, run_to, runs_on_features
from freqkd.errors import worded

_OTHER_CHANNELS = re.compile(r"to have \d+ channels, but got")  # torch, of a convolution


def try_steps(config: Config, model: Any, optimizers: Any, samples: Mapping[str, Any]) -> None:
    """Train a model for one step and let it predict, as its Runner would.

    Args:
        config: the config of the training.
        model: built of it, to be thrown away.
        optimizers: the optimizer wrapper of the model; None: no training step is taken.
        samples: by split, what the data set's pipeline makes of one image, see `check_data`.

    Raises:
        ValueError: a part of the config cannot work with the image, with other parts, or with its own options.
    """
    cached = getattr(getattr(model, "teacher", None), "cache", None) is not None  # and the image is no view of it
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
    """Run a network's parts on a blank image, to see whether their channels fit each other.

    Whatever else a part refuses about it, such as its size or a lack of samples, it may take from real images.
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
