"""Weights of the Haar coefficients of a pyramid, in the layout of the in-place transform on the canvas of `Strips`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from freqkd.losses.freekd.fused.scores import order_tokens, project, split_scores
from freqkd.losses.freekd.fused.strips import Strips
from freqkd.utils.checks import upcast


def precision(like: Tensor) -> torch.dtype:
    """Return what losses of a student's map are computed in, see `upcast`."""
    return torch.float64 if like.dtype == torch.float64 else torch.float32


def coefficient_factors(like: Tensor, scale_weights: Sequence[float]) -> tuple[list[float], float]:
    """Return the factors of the coefficients of the low band and of every level, and the scale that they leave out.

    `scale_weights` multiply the means of the bands, the low band's first, then from the finest level on. Butterflies without
    the factor 1/2 make level j too large by 2^j, which is undone here. The scale turns the weighted sum into the sum of means;
    within a gradient in half precision it would make it underflow.
    """
    depth = len(scale_weights) - 1
    height, width = like.shape[-2:]
    sizes = [-(-height // 2**level) * -(-width // 2**level) for level in range(1, depth + 1)]
    details = [
        weight * sizes[0] / (positions * 2**level)
        for level, (positions, weight) in enumerate(zip(sizes, scale_weights[1:]), 1)
    ]
    low = scale_weights[0] * sizes[0] / (sizes[-1] * 2**depth)
    return [low, *details], 1.0 / (like.shape[0] * like.shape[1] * sizes[0])


def weights_of_masks(
    masks: Sequence[Tensor] | None, like: Tensor, scale_weights: Sequence[float]
) -> tuple[Tensor, list[float]]:
    """Lay out the weight of every coefficient of one map as the in-place Haar transform lays out the coefficients.

    A level of that transform leaves LL, LH, HL, HH of a block of 2 x 2 positions in its four corners; the next level
    works on the LL corners alone.

    Args:
        masks: (N, T, h, w) of every band, or of every scale, see `freekd_loss`; None is ones.
        like: the student's map.
        scale_weights: see `coefficient_factors`.

    Returns:
        weights (N or 1, 1, 2^depth, columns) on the canvas of `Strips`, and the scale of `coefficient_factors`.
    """
    depth = len(scale_weights) - 1
    height, width = (-(-side // 2**depth) * 2**depth for side in like.shape[-2:])
    rows = 1 if masks is None else max(mask.shape[0] for mask in masks)
    weights = torch.zeros(rows, 1, height, width, dtype=precision(like), device=like.device)
    factors, scale = coefficient_factors(like, scale_weights)

    def fill(place: Tensor, which: int, level: int, factor: float) -> None:
        if masks is None:
            place.fill_(factor)
        else:
            size = (-(-like.shape[-2] // 2**level), -(-like.shape[-1] // 2**level))
            mask = upcast(masks[which].detach())
            place[..., : size[0], : size[1]] = (mask if mask.shape[1] == 1 else mask.mean(1, keepdim=True)) * factor

    corner = weights
    for level in range(1, depth + 1):
        for k, (row, column) in enumerate(((1, 0), (0, 1), (1, 1))):
            which = level if masks is not None and len(masks) == 1 + depth else 3 * level - 2 + k
            fill(corner[..., row::2, column::2], which, level, factors[level])
        corner = corner[..., 0::2, 0::2]
    fill(corner, 0, depth, factors[0])
    return torch.unflatten(weights, -2, (-1, 2**depth)).transpose(-3, -2).flatten(-2), [scale]


def weights_of_tokens(
    teachers: Sequence[Tensor], tokens: Sequence[Tensor], scale_weights: Sequence[float]
) -> tuple[Tensor, list[float]]:
    """Return `weights_of_masks` of the mean masks that each map's tokens make, for all maps of a canvas at once.

    Args:
        teachers: maps (N, C, H, W) of one batch size and precision.
        tokens: (1 + 3 * depth or 1 + depth, T, C) for each map, as in `FrequencyPrompt`.
        scale_weights: see `coefficient_factors`.

    Returns:
        weights (N, 1, 2^depth, columns), and the scale of each map.
    """
    depth = len(scale_weights) - 1
    strips = Strips.of(teachers, depth)
    ordered = order_tokens(torch.stack(list(tokens)), depth)
    with torch.autocast(ordered.device.type, enabled=False):
        projections = [project(teacher, own, depth) for teacher, own in zip(teachers, ordered)]
    found = [coefficient_factors(teacher, scale_weights) for teacher in teachers]
    columns = [length // strips.block for length in strips.lengths]
    own = torch.tensor([factors for factors, _ in found], dtype=projections[0][0].dtype)
    factors = own.repeat_interleave(torch.tensor(columns), 0, output_size=sum(columns)).to(projections[0][0].device)
    per_scale = tokens[0].shape[0] == 1 + depth
    finest = _gather(strips.halved() if per_scale else strips, [one for one, _ in projections])
    deeper = _gather(strips.halved(), [one for _, one in projections])
    low, *details = split_scores(finest, deeper, tokens[0].shape[1])
    weights = factors.new_empty(low.shape[0], 1, strips.block, strips.begins[-1])
    corner = weights
    for level, scores in enumerate(details, 1):
        masks = scores.sigmoid().mean(2)
        torch.unflatten(masks, -1, (factors.shape[0], -1)).mul_(factors[:, level, None])
        lh, hl, hh = masks.expand(-1, 3, -1, -1).split_with_sizes([1, 1, 1], 1)
        corner[..., 1::2, 0::2], corner[..., 0::2, 1::2], corner[..., 1::2, 1::2] = lh, hl, hh
        corner = corner[..., 0::2, 0::2]
    torch.mul(low.sigmoid().mean(1, keepdim=True), factors[:, 0], out=corner)
    return weights, [scale for _, scale in found]


def _gather(strips: Strips, maps: Sequence[Tensor]) -> Tensor:
    """Lay maps out on a canvas, zeros between them."""
    order = torch.channels_last if maps[0].stride(1) == 1 else torch.contiguous_format
    shape = (*maps[0].shape[:2], strips.block, strips.begins[-1])
    canvas = torch.empty(shape, dtype=maps[0].dtype, device=maps[0].device, memory_format=order).zero_()
    for piece in strips.whole():
        for place, part in strips.match(canvas, piece, maps[piece.index]):
            place.copy_(part)
    return canvas
