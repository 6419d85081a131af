"""Which positions of which bands the prompts point at: masks of a batch, and pictures of them."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from freqkd.distillers.distiller import Distiller
from freqkd.distillers.preprocessing import to_rgb
from freqkd.distillers.prompt_tuner import PromptTuner
from freqkd.plotting import band_names, mask_panel
from freqkd.prompts import FrequencyPrompt


def prompted_terms(model: nn.Module) -> dict[str, tuple[nn.ModuleList, str, tuple[int, ...] | None]]:
    """Return `{name: (prompts, teacher path, levels)}` of what in a model has prompts.

    Raises:
        ValueError: nothing has.
    """
    if isinstance(model, PromptTuner):
        return {"prompts": (model.prompts, model.tap, model.levels)}
    found = {}
    if isinstance(model, Distiller):
        for name, term in model.terms.items():
            if term.needs_prompts:
                found[name] = (cast(nn.ModuleList, term.loss.prompts), term.teacher_path, term.levels)
    if not found:
        raise ValueError(
            "the model must have frequency prompts: a PromptTuner, or a Distiller with a FreeKD term, got "
            f"{type(model).__name__}"
        )
    return found


@torch.no_grad()
def teacher_masks(model: Any, inputs: Tensor, data_samples: Any = None) -> dict[str, list[list[Tensor]]]:
    """Return `{name: per pyramid level, per band, masks (N, T, h, w)}` of a batch as the student sees it."""
    model.prepare()
    answer = {}
    for name, (prompts, path, levels) in prompted_terms(model).items():
        images = model.teacher.view(inputs, data_samples, model.data_preprocessor)
        maps = model.teacher.extract(images, data_samples, [path])[path]
        chosen = maps if levels is None else [maps[level] for level in levels]
        pairs = zip(cast("list[FrequencyPrompt]", list(prompts)), chosen, strict=True)
        answer[name] = [list(prompt.masks(prompt.decompose(feature))) for prompt, feature in pairs]
    return answer


def mask_pictures(model: Any, inputs: Tensor, data_samples: Any = None, level: int | None = None) -> dict[str, Any]:
    """Draw the masks of the first image: `{"NAME/level0": RGB array (H, W, 3)}` for one pyramid level, or all."""
    image = to_rgb(inputs[:1], model.data_preprocessor)[0]
    pictures = {}
    for name, levels in teacher_masks(model, inputs[:1], data_samples[:1] if data_samples else None).items():
        for index, masks in enumerate(levels):
            if level is not None and index != level:
                continue
            arrays = [mask[0].float().cpu().numpy().astype(np.float32) for mask in masks]
            deep = (len(arrays) - 1) // 3 if _is_subband(model, name) else len(arrays) - 1
            names = (
                band_names(deep)
                if _is_subband(model, name)
                else [f"LL{deep}", *(f"level {j + 1}" for j in range(deep))]
            )
            height, width = inputs.shape[-2:]
            title = f"{name}, pyramid level {index} ({width}x{height} image)"
            pictures[f"{name}/level{index}"] = mask_panel(image, arrays, names, title)
    return pictures


def _is_subband(model: nn.Module, name: str) -> bool:
    prompts, _, _ = prompted_terms(model)[name]
    return cast(FrequencyPrompt, prompts[0]).bands == "subband"
