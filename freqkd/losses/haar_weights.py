"""What every Haar coefficient of a pyramid counts, laid out as the walk of `haar_distance` meets it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from freqkd.checks import upcast
from freqkd.losses.haar_strips import Strips
from freqkd.scores import order_tokens, project, split_scores


def precision(like: Tensor) -> torch.dtype:
    """Return what losses of a student's map are computed in, see `upcast`."""
    return torch.float64 if like.dtype == torch.float64 else torch.float32


def band_factors(like: Tensor, level: int, include_low: bool, orientations: str) -> tuple[list[float], float]:
    """Return what a mean over the low band, and over one band of every level, counts beside the finest, and its scale.

    Butterflies without the factor 1/2 make level j too large by 2^j, which is undone here. The scale makes of the weighted
    sum the sum of means; a gradient in half precision that it is part of would underflow.
    """
    height, width = like.shape[-2:]
    sizes = [-(-height // 2**depth) * -(-width // 2**depth) for depth in range(1, level + 1)]
    share = 1 / 3 if orientations == "mean" else 1.0
    details = [share * sizes[0] / (positions * 2**depth) for depth, positions in enumerate(sizes, 1)]
    low = sizes[0] / (sizes[-1] * 2**level) if include_low else 0.0
    return [low, *details], 1.0 / (like.shape[0] * like.shape[1] * sizes[0])


def mean_mask(mask: Tensor, name: str, batch: int, size: tuple[int, int]) -> Tensor:
    """Return the mean of T masks, (N or 1, 1, h, w), in the precision of losses and without gradient.

    Raises:
        ValueError: the masks do not fit a band of `size` positions.
    """
    if mask.dim() != 4 or mask.shape[0] not in (1, batch) or tuple(mask.shape[2:]) != size:
        raise ValueError(
            f"{name} must be (N, T, h, w) with N = {batch} and positions {size}, got shape {tuple(mask.shape)}"
        )
    mask = upcast(mask.detach())
    return mask if mask.shape[1] == 1 else mask.mean(1, keepdim=True)


def nest_weights(
    masks: Sequence[Tensor] | None, like: Tensor, level: int, include_low: bool, orientations: str
) -> tuple[Tensor, list[float]]:
    r"""Lay out what every coefficient of one map counts as the in-place Haar transform lays out the coefficients.

    A level of that transform leaves LL, LH, HL, HH of a block of 2 x 2 positions in its four corners; the next level
    works on the LL corners alone.

    Args:
        masks: (N, T, h, w) of every band, or of every level, see `freekd_loss`; None is ones.
        like: the student's map.
        level: levels of the transform.
        include_low: whether the low band counts.
        orientations: "sum" or "mean", see `freekd_loss`.

    Returns:
        weights (N or 1, 1, 2^level, columns) on the canvas of `Strips`, and the scale of `band_factors`.

    Raises:
        ValueError: a mask does not fit its band.
    """
    height, width = (-(-side // 2**level) * 2**level for side in like.shape[-2:])
    rows = 1 if masks is None else max(mask.shape[0] for mask in masks)
    weights = torch.zeros(rows, 1, height, width, dtype=precision(like), device=like.device)
    factors, scale = band_factors(like, level, include_low, orientations)

    def fill(place: Tensor, which: int, depth: int, factor: float) -> None:
        if masks is None:
            place.fill_(factor)
        else:
            size = (-(-like.shape[-2] // 2**depth), -(-like.shape[-1] // 2**depth))
            mask = mean_mask(masks[which], f"masks[{which}]", like.shape[0], size)
            place[..., : size[0], : size[1]] = mask * factor

    corner = weights
    for depth in range(1, level + 1):
        for k, (row, column) in enumerate(((1, 0), (0, 1), (1, 1))):
            which = depth if masks is not None and len(masks) == 1 + level else 3 * depth - 2 + k
            fill(corner[..., row::2, column::2], which, depth, factors[depth])
        corner = corner[..., 0::2, 0::2]
    fill(corner, 0, level, factors[0])
    return torch.unflatten(weights, -2, (-1, 2**level)).transpose(-3, -2).flatten(-2), [scale]


def point_weights(
    teachers: Sequence[Tensor], tokens: Sequence[Tensor], level: int, include_low: bool, orientations: str
) -> tuple[Tensor, list[float]]:
    """Return the weights of the masks that each map's tokens make of it, on the canvas of `Strips`, and every map's scale.

    They are `nest_weights` of the mean masks, but that all maps are worked on at once, which a GPU's launches and small maps
    gain by.

    Args:
        teachers: maps (N, C, H, W) of one batch size and precision.
        tokens: (1 + 3 * level or 1 + level, T, C) for each map, as in `FrequencyPrompt`.
        level: levels of the transform.
        include_low: whether the low band counts.
        orientations: "sum" or "mean", see `freekd_loss`.

    Returns:
        weights (N, 1, 2^level, columns), and the scales of `band_factors`.
    """
    strips = Strips.of(teachers, level)
    ordered = order_tokens(torch.stack(list(tokens)), level)
    with torch.autocast(ordered.device.type, enabled=False):
        projections = [project(teacher, own, level) for teacher, own in zip(teachers, ordered)]
    found = [band_factors(teacher, level, include_low, orientations) for teacher in teachers]
    columns = [length // strips.block for length in strips.lengths]
    own = torch.tensor([factors for factors, _ in found], dtype=projections[0][0].dtype)
    factors = own.repeat_interleave(torch.tensor(columns), 0, output_size=sum(columns)).to(projections[0][0].device)
    per_level = tokens[0].shape[0] == 1 + level
    finest = _gather(strips.halved() if per_level else strips, [one for one, _ in projections])
    deeper = _gather(strips.halved(), [one for _, one in projections])
    low, *details = split_scores(finest, deeper, tokens[0].shape[1])
    weights = factors.new_empty(low.shape[0], 1, strips.block, strips.begins[-1])
    corner = weights
    for depth, scores in enumerate(details, 1):
        masks = scores.sigmoid().mean(2)
        torch.unflatten(masks, -1, (factors.shape[0], -1)).mul_(factors[:, depth, None])
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
