"""Masks of frequency prompts on a batch, as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from freqkd.losses.freekd.loss import PRESETS
from freqkd.losses.freekd.prompts import FrequencyPrompt
from freqkd.models.distiller import Distiller
from freqkd.models.prompt_tuner import PromptTuner
from freqkd.teacher.preprocessing import to_rgb
from freqkd.visualization.plotting import Image, band_names, mask_panel


def prompted_terms(model: nn.Module) -> dict[str, tuple[list[FrequencyPrompt], str, Sequence[int] | None]]:
    """Return `{name: (prompts, teacher path, levels)}` of what in a model has prompts.

    Raises:
        ValueError: nothing in it has.
    """
    found: dict[str, tuple[Any, str, Sequence[int] | None]] = {}
    if isinstance(model, PromptTuner):
        found["prompts"] = (model.prompts, model.tap, model.levels)
    if isinstance(model, Distiller):
        for name, term in model.terms.items():
            if term.needs_prompts:
                found[name] = (term.loss.prompts, term.teacher_tap, term.teacher_levels)
    if not found:
        without = " and ".join(repr(name) for name, preset in PRESETS.items() if preset.get("combine") == "none")
        terms = f" with the terms {', '.join(model.terms)}" if isinstance(model, Distiller) else ""
        raise ValueError(
            "the model must have frequency prompts: a PromptTuner, or a Distiller with a FreeKD term that has prompts (the "
            f"presets {without} have none), got {type(model).__name__}{terms}"
        )
    return {name: (list(prompts), path, levels) for name, (prompts, path, levels) in found.items()}


def check_level(name: str, level: int, model: nn.Module) -> None:
    """Raise ValueError where no prompts of a model have a pyramid level, so that nothing would be drawn.

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


@torch.no_grad()
def mask_pictures(model: Any, inputs: Tensor, data_samples: Any = None, level: int | None = None) -> dict[str, Image]:
    """Draw the masks of the first image: `{"NAME/level0": RGB array (H, W, 3)}` for one pyramid level, or all.

    Args:
        model: a `PromptTuner` or `Distiller`.
        inputs: images as its preprocessor made them, (N, 3, H, W).
        data_samples: their samples, whose sizes say where padding begins; None: no padding.
        level: counted among the levels that have prompts; None: all.
    """
    model.prepare()
    inputs, samples = inputs[:1], data_samples[:1] if data_samples else None
    photo, (height, width) = to_rgb(inputs, model.data_preprocessor)[0], inputs.shape[-2:]
    images = model.teacher.normalize(inputs, samples)
    pictures = {}
    for name, (prompts, path, levels) in prompted_terms(model).items():
        maps = model.teacher.extract(images, samples, [path])[path]
        chosen = maps if levels is None else [maps[index] for index in levels]
        for index, (prompt, feature) in enumerate(zip(prompts, chosen, strict=True)):
            if level in (None, index):
                masks = [mask[0].float().cpu().numpy() for mask in prompt.masks(prompt.decompose(feature))]
                title = f"{name}, pyramid level {index} ({width}x{height} image)"
                names = band_names(prompt.depth, prompt.tokens_per)
                pictures[f"{name}/level{index}"] = mask_panel(photo, masks, names, title)
    return pictures
