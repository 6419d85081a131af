"""Show during training where the prompts point."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from freqkd.distillers.masks import mask_pictures


class MaskHook(Hook):
    """Send pictures of the frequency masks to the visualizer (files, TensorBoard, W&B, whatever it has).

    Works in both stages: in the first it shows the prompts being trained, in the second those that distil.

    Args:
        interval: iterations between two pictures.
        level: pyramid level shown.
    """

    priority = "LOW"

    def __init__(self, interval: int = 500, level: int = 0) -> None:
        if interval < 1:
            raise ValueError(f"interval must be at least 1 iteration, got {interval}")
        self.interval, self.level = interval, level

    @torch.no_grad()
    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Draw the masks of the first image of the batch."""
        if data_batch is None or not self.every_n_train_iters(runner, self.interval):
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        data = model.data_preprocessor(data_batch, False)
        for name, picture in mask_pictures(
            model, data["inputs"][:1], data.get("data_samples", [])[:1], self.level
        ).items():
            # No folder in the name: MMEngine's backend for files makes none and loses the picture without a word.
            runner.visualizer.add_image(f"masks_{name.replace('/', '_')}", picture, step=runner.iter + 1)
