"""The masked L1 distance of Haar subbands in a few passes: its gradient is known as soon as the signs are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from freqkd.checks import upcast

# Numbers per tile of the scratch on a CPU: 4 MB in float32, so that the passes over a tile stay in the cache.
TILE = 2**20
# Blocks of a map below which a compiled kernel gains nothing and would be compiled anew.
SMALL = 16


def nest_weights(
    masks: Sequence[Tensor] | None, like: Tensor, level: int, include_low: bool, orientations: str
) -> tuple[Tensor, float]:
    r"""Lay out what every coefficient counts as the in-place Haar transform lays out the coefficients.

    A level of that transform leaves LL, LH, HL, HH of a block of 2 x 2 positions in its four corners; the next level
    works on the LL corners alone. Butterflies without the factor 1/2 make level j too large by 2^j, which the weights undo.

    Args:
        masks: (N, T, h, w) of every band, or of every level, see `freekd_loss`; None is ones.
        like: the student's map.
        level: levels of the transform.
        include_low: whether the low band counts.
        orientations: "sum" or "mean", see `freekd_loss`.

    Returns:
        weights (N or 1, 1, H', W') with H', W' the next multiples of 2^level, and the factor that makes of the weighted
        sum the sum of means. They are kept apart because their product underflows in half precision.

    Raises:
        ValueError: a mask does not fit its band.
    """
    height, width = (2**level * size for size in _positions(like, level))
    rows = 1 if masks is None else max(mask.shape[0] for mask in masks)
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    weights = torch.zeros(rows, 1, height, width, dtype=dtype, device=like.device)
    finest = _positions(like, 1)

    def fill(place: Tensor, which: int, depth: int, share: float) -> None:
        size = _positions(like, depth)
        factor = share * finest[0] * finest[1] / (size[0] * size[1] * 2**depth)
        if masks is None:
            place.fill_(factor)
        else:
            mask = mean_mask(masks[which], f"masks[{which}]", like.shape[0], size)
            place[..., : size[0], : size[1]] = mask * factor

    corner = weights
    for depth in range(1, level + 1):
        for k, (row, column) in enumerate(((1, 0), (0, 1), (1, 1))):
            which = depth if masks is not None and len(masks) == 1 + level else 3 * depth - 2 + k
            fill(corner[..., row::2, column::2], which, depth, 1 / 3 if orientations == "mean" else 1.0)
        corner = corner[..., 0::2, 0::2]
    if include_low:
        fill(corner, 0, level, 1.0)
    return weights, 1.0 / (like.shape[0] * like.shape[1] * finest[0] * finest[1])


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


def _positions(like: Tensor, level: int) -> tuple[int, int]:
    return -(-like.shape[-2] // 2**level), -(-like.shape[-1] // 2**level)


def haar_distance(
    student: Tensor,
    teacher: Tensor,
    weights: Tensor,
    channel_weights: Tensor | None = None,
    level: int = 3,
    compiled: bool = False,
) -> Tensor:
    r"""Return the weighted L1 distance of the Haar subbands of two maps.

    .. math:: \sum_{b,c,p} w_{b,p} \, | \omega_c \, (t_b - s_b)_{c,p} |

    The gradient with respect to s is the inverse transform of minus :math:`w \omega` times the signs. It is computed on the
    way and kept in the student's precision: backward only scales it.

    Args:
        student: the student's map.
        teacher: the teacher's map; receives no gradient.
        weights: w, as `nest_weights` lays it out; receives no gradient.
        channel_weights: omega; receives no gradient. None is ones.
        level: levels of the transform.
        compiled: let `torch.compile` fuse it; the first call of a process takes some ten seconds.

    Shape:
        student, teacher: (N, C, H, W); weights: (N or 1, 1, H', W'); channel_weights: (N or 1, C). Output: a scalar.

    Example:
        >>> student, teacher = torch.zeros(1, 1, 2, 2), torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> haar_distance(student, teacher, torch.full((1, 1, 2, 2), 0.5), level=1).item()  # bands 5, -2, -1, 0
        8.0
    """
    distance = cast(Any, _HaarDistance).apply(student, teacher, weights, channel_weights, level, compiled)
    return cast(Tensor, distance)


class _HaarDistance(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        weights: Tensor,
        channel_weights: Tensor | None,
        level: int,
        compiled: bool,
    ) -> Tensor:
        walk = compiled_gradient if compiled else stream_gradient
        if torch.compiler.is_compiling():
            walk = gradient_of
        loss, gradient = walk(student, teacher, weights, channel_weights, level)
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        # Multiplied in the student's precision, which the scale of a loss scaler is meant for.
        return gradient * upstream.to(gradient.dtype), None, None, None, None, None


def _channels(channel_weights: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if channel_weights is None else channel_weights.to(dtype)[:, :, None, None]


def stream_gradient(
    student: Tensor, teacher: Tensor, weights: Tensor, channel_weights: Tensor | None, level: int
) -> tuple[Tensor, Tensor]:
    """Return loss and gradient of `haar_distance`, tile by tile in one scratch, every pass in place.

    A tile is some rows of blocks on a CPU and the whole map elsewhere, where launches cost more than cache misses.
    """
    batch, channels, height, width = student.shape
    padded_width = weights.shape[-1]
    rows = weights.shape[-2]
    if student.device.type == "cpu":
        fitting = TILE // (batch * channels * padded_width) // 2**level * 2**level
        rows = min(rows, max(fitting, 2**level))
    last = torch.channels_last if student.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    scratch = torch.empty(
        batch, channels, rows, padded_width, dtype=weights.dtype, device=student.device, memory_format=last
    )
    omega = _channels(channel_weights, weights.dtype)
    gradient = torch.empty_like(student, memory_format=last)
    sums = []
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        weight = weights[..., top : top + rows, :]
        tile = scratch[..., : weight.shape[-2], :]
        inside = tile[..., : bottom - top, :width]
        tile[..., bottom - top :, :].zero_()
        tile[..., width:].zero_()
        inside.copy_(teacher[..., top:bottom, :])
        inside.sub_(student[..., top:bottom, :])
        if omega is not None:
            inside.mul_(omega)
        corners = [tile]
        for _ in range(level):
            _split_in_place(corners[-1])
            corners.append(corners[-1][..., 0::2, 0::2])
        distance = torch.linalg.vector_norm(tile, 1, dim=1, keepdim=True)
        sums.append((distance * weight).sum())
        tile.sign_().mul_(-weight)
        for corner in reversed(corners[:-1]):
            _split_in_place(corner)  # a butterfly without its factor is its own inverse
        if omega is not None:
            inside.mul_(omega)
        gradient[..., top:bottom, :].copy_(inside)
    return torch.stack(sums).sum(), gradient


def _split_in_place(x: Tensor) -> None:
    """Replace the two halves of every pair by their sum and difference, rows first, then columns."""
    for even, odd in ((x[..., 0::2, :], x[..., 1::2, :]), (x[..., 0::2], x[..., 1::2])):
        even.add_(odd)
        torch.add(even, odd, alpha=-2, out=odd)


def gradient_of(
    student: Tensor, teacher: Tensor, weights: Tensor, channel_weights: Tensor | None, level: int
) -> tuple[Tensor, Tensor]:
    """Return loss and gradient of `haar_distance` as one expression without mutation, for a compiler to fuse.

    Everything is laid out in blocks of 2^level x 2^level positions, channels last: whatever the size of a map, only the
    number of blocks differs.
    """
    block = 2**level
    batch, channels, height, width = student.shape
    # A fresh tensor in blocks: a view would tell the compiler that its width may equal the map's, which it then demands.
    places = [weights.reshape(-1, weights.shape[-2] // block, block, weights.shape[-1] // block, block, 1).clone()]
    rows, columns = places[0].shape[1], places[0].shape[3]
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


def _corners(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return a, b, c, d of every [[a, b], [c, d]] within the blocks of (N, rows, k, columns, k, C)."""
    upper, lower = x[:, :, 0::2], x[:, :, 1::2]
    return upper[:, :, :, :, 0::2], upper[:, :, :, :, 1::2], lower[:, :, :, :, 0::2], lower[:, :, :, :, 1::2]


def _join_corners(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    batch, rows, size, columns, _, channels = a.shape
    upper = torch.stack((a, b), dim=5).reshape(batch, rows, size, columns, 2 * size, channels)
    lower = torch.stack((c, d), dim=5).reshape(batch, rows, size, columns, 2 * size, channels)
    return torch.stack((upper, lower), dim=3).reshape(batch, rows, 2 * size, columns, 2 * size, channels)


@cache
def _compiled() -> Callable[..., tuple[Tensor, Tensor]]:
    return cast("Callable[..., tuple[Tensor, Tensor]]", torch.compile(gradient_of, dynamic=True))


def compiled_gradient(
    student: Tensor, teacher: Tensor, weights: Tensor, channel_weights: Tensor | None, level: int
) -> tuple[Tensor, Tensor]:
    """Return what `gradient_of` does, compiled once for maps of all sizes but tiny ones, which are streamed."""
    rows, columns = weights.shape[-2] // 2**level, weights.shape[-1] // 2**level
    if min(rows, columns) < 2 or rows * columns < SMALL:
        return stream_gradient(student, teacher, weights, channel_weights, level)
    last = torch.channels_last
    student, teacher = student.contiguous(memory_format=last), teacher.contiguous(memory_format=last)
    return _compiled()(student, teacher, weights, channel_weights, level)
