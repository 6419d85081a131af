"""Show during training where the prompts point."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from torch import nn

from freqkd.checks import check_whole
from freqkd.distillers.masks import mask_pictures, prompted_terms


def check_level(name: str, level: int, model: nn.Module) -> None:
    """Raise ValueError where no prompts of a model have a pyramid level, which would then be drawn for none.

    Args:
        name: what the level was given as.
        level: counted among the levels that have prompts.
        model: a `PromptTuner` or `Distiller`.
    """
    counts = {term: len(prompts) for term, (prompts, _, _) in prompted_terms(model).items()}
    if not 0 <= level < max(counts.values()):
        has = ", ".join(f"{term} has {count}" for term, count in counts.items())
        raise ValueError(
            f"{name} must be from 0 to {max(counts.values()) - 1}, a pyramid level with prompts ({has}), got {level}"
        )


class MaskHook(Hook):
    """Send pictures of the frequency masks to the visualizer (files, TensorBoard, W&B, whatever it has).

    Works in both stages: in the first it shows the prompts being trained, in the second those that distil.

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

    def before_train(self, runner: Any) -> None:
        """Check that there is something to draw."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        check_level("MaskHook's level", self.level, model)

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
