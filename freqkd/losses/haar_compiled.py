"""The walk of `haar_distance` as expressions that `torch.compile` fuses, one kernel for maps of all sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from freqkd.checks import upcast

# Blocks of a map below which a compiled kernel gains nothing and would be compiled anew.
SMALL = 6
# Numbers per strip: what a kernel leaves for the next one stays in the cache, and is small beside the maps.
STRIP = 2**19


def is_small(x: Tensor, level: int) -> bool:
    """Whether a map has too few blocks to be worth a compiled kernel."""
    rows, columns = (-(-size // 2**level) for size in x.shape[-2:])
    return bool(min(rows, columns) < 2 or rows * columns < SMALL)


def gradient_of(
    student: Tensor, teacher: Tensor, weights: Tensor, channel_weights: Tensor | None, level: int
) -> tuple[Tensor, Tensor]:
    """Return loss and gradient of `haar_distance` as one expression without mutation, for a compiler to fuse.

    Everything is laid out in blocks of 2^level x 2^level positions, channels last: whatever the size of a map, only the
    number of blocks differs. The weights come from `to_blocks`.
    """
    block = 2**level
    batch, channels, height, width = student.shape
    places = [weights]
    rows, columns = weights.shape[1], weights.shape[3]
    omega = None if channel_weights is None else channel_weights.to(weights.dtype)[:, None, None, :]
    difference = upcast(teacher).permute(0, 2, 3, 1) - upcast(student).permute(0, 2, 3, 1)
    difference = difference if omega is None else difference * omega
    padded = F.pad(difference, (0, 0, 0, columns * block - width, 0, rows * block - height))
    lows = [padded.reshape(batch, rows, block, columns, block, channels)]
    for _ in range(level):
        a, b, c, d = _corners(lows[-1])
        lows.append(a + b + c + d)
        places.append(_corners(places[-1])[0])
    loss = (lows[-1].abs() * places[-1]).sum()
    gradient = lows[-1].sign() * -places[-1]
    for low, place in zip(reversed(lows[:-1]), reversed(places[:-1])):
        a, b, c, d = _corners(low)
        bands = (a - b + c - d, a + b - c - d, a - b - c + d)
        shares = _corners(place)[1:]
        terms = [band.abs() * share for band, share in zip(bands, shares)]
        loss = loss + (terms[0] + terms[1] + terms[2]).sum()
        hl, lh, hh = (band.sign() * -share for band, share in zip(bands, shares))
        gradient = _join_corners(
            gradient + lh + hl + hh, gradient + lh - hl - hh, gradient - lh + hl - hh, gradient - lh - hl + hh
        )
    gradient = gradient.reshape(batch, rows * block, columns * block, channels)[:, :height, :width]
    gradient = gradient if omega is None else gradient * omega
    return loss, gradient.to(student.dtype).permute(0, 3, 1, 2)


def to_blocks(weights: Tensor, level: int) -> Tensor:
    """Lay weights out as (N or 1, rows, 2^level, columns, 2^level, 1).

    A fresh tensor: seeing a view, the compiler would note that its width equals this map's, and compile for that alone.
    """
    block = 2**level
    height, width = weights.shape[-2:]
    return weights.reshape(-1, height // block, block, width // block, block, 1).clone()


def _corners(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return a, b, c, d of every [[a, b], [c, d]] within the blocks of (N, rows, k, columns, k, C)."""
    upper, lower = x[:, :, 0::2], x[:, :, 1::2]
    return upper[:, :, :, :, 0::2], upper[:, :, :, :, 1::2], lower[:, :, :, :, 0::2], lower[:, :, :, :, 1::2]


def _join_corners(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    batch, rows, size, columns, _, channels = a.shape
    upper = torch.stack((a, b), dim=5).reshape(batch, rows, size, columns, 2 * size, channels)
    lower = torch.stack((c, d), dim=5).reshape(batch, rows, size, columns, 2 * size, channels)
    return torch.stack((upper, lower), dim=3).reshape(batch, rows, 2 * size, columns, 2 * size, channels)


def pointed_weights(projections: Sequence[Tensor], factors: Tensor, rows: int, columns: int) -> Tensor:
    """Return the weights that `nest_weights` makes of the mean masks of `subband_scores`, from `project_levels`.

    Args:
        projections: as `project_levels` returns them.
        factors: what the low band and the details of every level, finest first, are multiplied with.
        rows, columns: blocks of the map.
    """
    low = projections[-1].permute(0, 2, 3, 1)
    prompts = low.shape[-1]
    weights = low[:, :, None, :, None].sigmoid().mean(-1, keepdim=True) * factors[0]
    size = 1
    for depth in range(len(projections) - 1, 0, -1):
        size *= 2
        projected = projections[depth - 1].permute(0, 2, 3, 1)
        short = (columns * size - projected.shape[2], rows * size - projected.shape[1])
        projected = F.pad(projected, (0, 0, 0, short[0], 0, short[1]))
        blocks = projected.reshape(-1, rows, size, columns, size, projected.shape[-1])
        a, b, c, d = _corners(blocks)
        if projected.shape[-1] == prompts:
            lh = hl = hh = 3 * a - b - c - d
        else:
            lh = (a + b - c - d)[..., :prompts]
            hl = (a - b + c - d)[..., prompts : 2 * prompts]
            hh = (a - b - c + d)[..., 2 * prompts :]
        hl, lh, hh = (scores.sigmoid().mean(-1, keepdim=True) * factors[depth] for scores in (hl, lh, hh))
        weights = _join_corners(weights, hl, lh, hh)
    return weights.reshape(-1, 1, rows * size, columns * size)


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True)


def compiled_gradient(
    student: Tensor, teacher: Tensor, weights: Tensor, channel_weights: Tensor | None, level: int
) -> tuple[Tensor, Tensor]:
    """Return what `gradient_of` does, compiled once for maps of all sizes."""
    last = torch.channels_last
    student, teacher = student.contiguous(memory_format=last), teacher.contiguous(memory_format=last)
    strips = _strips(student, weights, level)
    if len(strips) == 1:
        whole = _compiled(gradient_of)(student, teacher, to_blocks(weights, level), channel_weights, level)
        return cast("tuple[Tensor, Tensor]", whole)
    gradient = torch.empty_like(student, memory_format=last)
    sums = []
    for top, bottom in strips:
        part = weights[..., top : min(bottom, weights.shape[-2]), :]
        inside = (student[..., top:bottom, :], teacher[..., top:bottom, :])
        loss, piece = _compiled(gradient_of)(*inside, to_blocks(part, level), channel_weights, level)
        gradient[..., top:bottom, :].copy_(piece)
        sums.append(loss)
    return torch.stack(sums).sum(), gradient


def _strips(student: Tensor, weights: Tensor, level: int) -> list[tuple[int, int]]:
    """Split the rows of a map into strips of whole blocks, nearly equal, two blocks at least; one on an accelerator."""
    blocks = weights.shape[-2] // 2**level
    numbers = student.shape[0] * student.shape[1] * weights.shape[-1] * 2**level
    count = max(blocks // max(STRIP // numbers, 2), 1) if student.device.type == "cpu" else 1
    ends = [2**level * (blocks * index // count) for index in range(count + 1)]
    return list(pairwise(ends))


def compiled_weights(projections: Sequence[Tensor], factors: Tensor, rows: int, columns: int) -> Tensor:
    """Return what `pointed_weights` does, compiled once for maps of all sizes."""
    return cast(Tensor, _compiled(pointed_weights)(projections, factors, rows, columns))
