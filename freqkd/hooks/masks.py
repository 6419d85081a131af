"""Pictures of the frequency masks during training."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.hooks import Hook

from freqkd.utils.checks import check_whole
from freqkd.utils.processes import unwrapped
from freqkd.visualization.masks import check_level, mask_pictures


class MaskHook(Hook):
    """Send pictures of the frequency masks to the visualizer, and so to its backends (files, TensorBoard, W&B).

    In the prompt stage it shows the prompts that are being trained, in a distillation those that are used.

    Args:
        interval: iterations between two pictures.
        level: pyramid level shown, counted among those that have prompts.

    Raises:
        ValueError: an argument out of range; before training, `level` has no prompts.
    """

    priority = "LOW"

    def __init__(self, interval: int = 500, level: int = 0) -> None:
        check_whole("interval", interval, 1)
        check_whole("level", level, 0)
        self.interval, self.level = interval, level

    def check_model(self, model: Any) -> None:
        """Raise ValueError where a model has no prompts on the chosen level."""
        check_level("MaskHook's level", self.level, model)

    def before_train(self, runner: Any) -> None:
        """Check that the model has prompts on the chosen level."""
        self.check_model(unwrapped(runner.model))

    @torch.no_grad()
    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Draw the masks of the first image of the batch."""
        if data_batch is None or not self.every_n_train_iters(runner, self.interval):
            return
        model = unwrapped(runner.model)
        data = model.data_preprocessor(data_batch, False)
        pictures = mask_pictures(model, data["inputs"], data.get("data_samples"), self.level)
        for name, picture in pictures.items():
            # No folder in the name: MMEngine's backend for files makes none, and loses the picture silently.
            runner.visualizer.add_image(f"masks_{name.replace('/', '_')}", picture, step=runner.iter + 1)
