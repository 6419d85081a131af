"""Fast forms of the FreeKD loss, which `freekd_loss` and `FreeKDLoss` take where one applies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from freqkd.losses.freekd.fused.distance import haar_distance, prompted_distance
from freqkd.losses.freekd.fused.squared_bands import squared_bands
from freqkd.losses.freekd.fused.weights import weights_of_masks
from freqkd.losses.freekd.fused.whitened import whitened_details
from freqkd.losses.freekd.prompts import FrequencyPrompt
from freqkd.losses.freekd.wavelets import HAAR_NAMES


def fused_freekd_loss(
    students: Sequence[Tensor],
    teachers: Sequence[Tensor],
    masks: Sequence[FrequencyPrompt | Sequence[Tensor] | None],
    channel_weights: Sequence[Tensor | None],
    *,
    norm: str,
    knee: float,
    combine: str,
    band_weights: str | Sequence[float],
    weight_map: Tensor | None = None,
    depth: int,
    wavelet: str,
) -> Tensor | None:
    """Return the sum of `freekd_loss` over pairs of maps, equal to rounding, or None where no fast form applies.

    Two forms are covered, both of Haar: norm "l1" with the mean of masks or without masks, where the orientations of a scale
    share a weight; and norm "l2" with "flat", "details" or "whitened", without masks and channel weights. Channel weights
    of every position have no fast form. Nothing else of the package imports from here. Arguments as in `freekd_loss`, one
    entry for each pair, and checked there.
    """
    local = any(omega is not None and omega.dim() == 4 for omega in channel_weights)  # weights of every position
    if wavelet not in HAAR_NAMES or weight_map is not None or local or torch.compiler.is_compiling():
        return None
    masks = [None] * len(students) if combine == "none" else masks
    masked = [mask for mask in masks if mask is not None]
    if norm == "l2" and band_weights in ("flat", "details", "whitened"):
        if masked or any(omega is not None for omega in channel_weights):
            return None
        if band_weights == "whitened":
            losses = [whitened_details(student, teacher, depth) for student, teacher in zip(students, teachers)]
        else:
            losses = [squared_bands(s, t, depth, with_low=band_weights == "flat") for s, t in zip(students, teachers)]
        return torch.stack(losses).sum()
    scale_weights = _scale_weights(band_weights, depth)
    if norm != "l1" or scale_weights is None or (masked and combine != "mean"):
        return None
    prompts = [mask for mask in masks if isinstance(mask, FrequencyPrompt)]
    others = [mask for mask in masks if not isinstance(mask, FrequencyPrompt)]
    if prompts:
        mixed = others or len({omega is None for omega in channel_weights}) > 1
        if mixed or any(prompt.score != "signed" for prompt in prompts):
            return None
        tokens = [prompt.tokens for prompt in prompts]
        return prompted_distance(students, teachers, tokens, channel_weights, scale_weights)
    losses = []
    for student, teacher, mask, omega in zip(students, teachers, others, channel_weights):
        with torch.no_grad():
            weights, scales = weights_of_masks(mask, student, scale_weights)
        omegas = None if omega is None else [omega]
        losses.append(haar_distance([student], [teacher.detach()], weights, omegas, depth, scales))
    return torch.stack(losses).sum()


def _scale_weights(band_weights: str | Sequence[float], depth: int) -> list[float] | None:
    """Return the factors of the means of the low band and of every scale's bands, None where orientations have their own."""
    if band_weights == "mean":
        return [1.0] * (1 + depth)
    if band_weights == "orientation-mean":
        return [0.0, *[1 / 3] * depth]
    if isinstance(band_weights, str) or len(band_weights) != 1 + depth:
        return None
    return [float(weight) for weight in band_weights]
