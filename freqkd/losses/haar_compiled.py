"""The walk of `haar_distance` as expressions without mutation, for a compiler to fuse."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from freqkd.checks import upcast

MOST = 6  # shapes of tiles that are compiled for


def gradient_of(
    student: Tensor, teacher: Tensor, weights: Tensor, channel_weights: Tensor | None, level: int
) -> tuple[Tensor, Tensor]:
    """Return loss and gradient of `haar_distance` for one map, as one expression without mutation.

    The weights are the map's own, as they lie on the canvas of `Strips`.
    """
    block = 2**level
    batch, channels, height, width = student.shape
    rows, columns = -(-height // block), -(-width // block)
    omega = None if channel_weights is None else channel_weights.to(weights.dtype)[:, None, None, :]
    difference = upcast(teacher).permute(0, 2, 3, 1) - upcast(student).permute(0, 2, 3, 1)
    difference = difference if omega is None else difference * omega
    padded = F.pad(difference, (0, 0, 0, columns * block - width, 0, rows * block - height))
    laid = weights.reshape(-1, block, rows, columns, block, 1).transpose(1, 2)
    losses, gradient = block_gradient(padded.reshape(batch, rows, block, columns, block, channels), laid, level)
    gradient = gradient.reshape(batch, rows * block, columns * block, channels)[:, :height, :width]
    gradient = gradient if omega is None else gradient * omega
    return losses.sum(), gradient.to(student.dtype).permute(0, 3, 1, 2)


def block_gradient(difference: Tensor, weights: Tensor, level: int) -> tuple[Tensor, Tensor]:
    """Return the distances of blocks (N, rows, columns) and the gradient with respect to minus `difference`.

    Shape:
        difference and gradient: (N, rows, 2^level, columns, 2^level, C); weights: (N or 1, rows, 2^level, columns, 2^level, 1).
    """
    lows, places = [difference], [weights]
    for _ in range(level):
        a, b, c, d = _corners(lows[-1])
        lows.append((a + b) + (c + d))  # the pairs of a butterfly: what cancels does so exactly, and zero has no sign
        places.append(_corners(places[-1])[0])
    inner = (2, 4, 5)
    losses = (lows[-1].abs() * places[-1]).sum(inner)
    gradient = lows[-1].sign() * -places[-1]
    for low, place in zip(reversed(lows[:-1]), reversed(places[:-1])):
        a, b, c, d = _corners(low)
        left, right = a - b, c - d
        bands = (left + right, (a - c) + (b - d), left - right)
        shares = _corners(place)[1:]
        terms = [band.abs() * share for band, share in zip(bands, shares)]
        losses = losses + (terms[0] + terms[1] + terms[2]).sum(inner)
        hl, lh, hh = (band.sign() * -share for band, share in zip(bands, shares))
        gradient = _join_corners(
            gradient + lh + hl + hh, gradient + lh - hl - hh, gradient - lh + hl - hh, gradient - lh - hl + hh
        )
    return losses, gradient


def _corners(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return a, b, c, d of every [[a, b], [c, d]] within the blocks of (N, rows, k, columns, k, C)."""
    upper, lower = x[:, :, 0::2], x[:, :, 1::2]
    return upper[:, :, :, :, 0::2], upper[:, :, :, :, 1::2], lower[:, :, :, :, 0::2], lower[:, :, :, :, 1::2]


def _join_corners(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    batch, rows, size, columns, _, channels = a.shape
    upper = torch.stack((a, b), dim=5).reshape(batch, rows, size, columns, 2 * size, channels)
    lower = torch.stack((c, d), dim=5).reshape(batch, rows, size, columns, 2 * size, channels)
    return torch.stack((upper, lower), dim=3).reshape(batch, rows, 2 * size, columns, 2 * size, channels)


def canvas_gradient(tile: Tensor, weight: Tensor, level: int) -> tuple[Tensor, Tensor]:
    """Return the distances of the columns of blocks of a canvas of `Strips`, and the canvas of the gradient.

    Shape:
        tile and gradient: (N, C, 2^level, columns), channels last; weight: (N or 1, 1, 2^level, columns).
    """
    block = 2**level
    batch, channels, _, length = tile.shape
    blocks = tile.permute(0, 2, 3, 1).reshape(batch, 1, block, length // block, block, channels)
    losses, gradient = block_gradient(blocks, weight.reshape(-1, 1, block, length // block, block, 1), level)
    return losses.sum((0, 1)), gradient.reshape(batch, block, length, channels).permute(0, 3, 1, 2)


_admitted: set[tuple[object, ...]] = set()


def admits(*shape: object) -> bool:
    """Whether tiles of this shape get a kernel of their own: torch compiles a function for eight of them, and then for none."""
    if len(_admitted) < MOST:
        _admitted.add(shape)
    return shape in _admitted


@cache
def compiled_canvas_gradient(dynamic: bool) -> Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]:
    """Return `canvas_gradient`, compiled once for every shape of a tile, or for tiles of all lengths."""
    return cast(
        "Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]", torch.compile(canvas_gradient, dynamic=dynamic)
    )
