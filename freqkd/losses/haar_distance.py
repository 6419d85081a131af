"""The masked L1 distance of Haar subbands in a few passes: its gradient is known as soon as the signs are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from freqkd.checks import check_map, upcast
from freqkd.losses.haar_compiled import (
    compiled_gradient,
    compiled_weights,
    gradient_of,
    is_small,
    to_blocks,
)
from freqkd.scores import project_levels

# Numbers per tile of the scratch on a CPU: 4 MB in float32, so that the passes over a tile stay in the cache.
TILE = 2**20


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
        weights (N or 1, 1, H', W') with H', W' the next multiples of 2^level, and the scale that makes of the weighted
        sum the sum of means: apart, because their product underflows in half precision.

    Raises:
        ValueError: a mask does not fit its band.
    """
    height, width = (2**level * size for size in _positions(like, level))
    rows = 1 if masks is None else max(mask.shape[0] for mask in masks)
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    weights = torch.zeros(rows, 1, height, width, dtype=dtype, device=like.device)
    factors, scale = band_factors(like, level, include_low, orientations)

    def fill(place: Tensor, which: int, depth: int, factor: float) -> None:
        if masks is None:
            place.fill_(factor)
        else:
            size = _positions(like, depth)
            mask = mean_mask(masks[which], f"masks[{which}]", like.shape[0], size)
            place[..., : size[0], : size[1]] = mask * factor

    corner = weights
    for depth in range(1, level + 1):
        for k, (row, column) in enumerate(((1, 0), (0, 1), (1, 1))):
            which = depth if masks is not None and len(masks) == 1 + level else 3 * depth - 2 + k
            fill(corner[..., row::2, column::2], which, depth, factors[depth])
        corner = corner[..., 0::2, 0::2]
    fill(corner, 0, level, factors[0])
    return weights, scale


def point_weights(
    teacher: Tensor, tokens: Tensor, level: int, include_low: bool, orientations: str
) -> tuple[Tensor, float]:
    """Return `nest_weights` of the masks that tokens make of a teacher's map, the small work of it compiled."""
    factors, scale = band_factors(teacher, level, include_low, orientations)
    projections = project_levels(teacher, tokens, level)
    laid = torch.tensor(factors, dtype=projections[0].dtype).to(teacher.device)
    return compiled_weights(projections, laid, *_positions(teacher, level)), scale


def pointed_distance(
    student: Tensor,
    teacher: Tensor,
    tokens: Tensor,
    channel_weights: Tensor | None,
    *,
    level: int,
    include_low: bool,
    orientations: str,
) -> Tensor:
    """Return `freekd_loss` with the masks that tokens make of the teacher's map, all of it compiled.

    See `FreeKDLoss` for what it means; maps of a few blocks are not worth it, see `is_small`.
    """
    check_map("teacher", teacher, tokens.shape[-1])
    with torch.no_grad():
        weights, scale = point_weights(teacher, tokens, level, include_low, orientations)
    return haar_distance(student, teacher.detach(), weights, channel_weights, level, True, scale)


def band_factors(like: Tensor, level: int, include_low: bool, orientations: str) -> tuple[list[float], float]:
    """Return what a mean over the low band, and over one band of every level, counts beside the finest, and its scale."""
    sizes = [math.prod(_positions(like, depth)) for depth in range(1, level + 1)]
    share = 1 / 3 if orientations == "mean" else 1.0
    details = [share * sizes[0] / (size * 2**depth) for depth, size in enumerate(sizes, 1)]
    low = sizes[0] / (sizes[-1] * 2**level) if include_low else 0.0
    return [low, *details], 1.0 / (like.shape[0] * like.shape[1] * sizes[0])


def _positions(like: Tensor, level: int) -> tuple[int, int]:
    return -(-like.shape[-2] // 2**level), -(-like.shape[-1] // 2**level)


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


def haar_distance(
    student: Tensor,
    teacher: Tensor,
    weights: Tensor,
    channel_weights: Tensor | None = None,
    level: int = 3,
    compiled: bool = False,
    scale: float = 1.0,
) -> Tensor:
    r"""Return the weighted L1 distance of the Haar subbands of two maps.

    .. math:: scale \sum_{b,c,p} w_{b,p} \, | \omega_c \, (t_b - s_b)_{c,p} |

    The gradient with respect to s is the inverse transform of minus :math:`w \omega` times the signs. It is computed on the
    way and kept in the student's precision: backward only scales it.

    Args:
        student: the student's map.
        teacher: the teacher's map; receives no gradient.
        weights: w, as `nest_weights` lays it out; receives no gradient.
        channel_weights: omega; receives no gradient. None is ones.
        level: levels of the transform.
        compiled: let `torch.compile` fuse it; the first call of a process takes some ten seconds.
        scale: factor on the result.

    Shape:
        student, teacher: (N, C, H, W); weights: (N or 1, 1, H', W'); channel_weights: (N or 1, C). Output: a scalar.

    Example:
        >>> student, teacher = torch.zeros(1, 1, 2, 2), torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> haar_distance(student, teacher, torch.full((1, 1, 2, 2), 0.5), level=1).item()  # bands 5, -2, -1, 0
        8.0
    """
    if student.dtype in (torch.float32, torch.float64):
        weights, scale = weights * scale, 1.0  # a gradient that is kept in half precision would underflow
    distance = cast(Any, _HaarDistance).apply(student, teacher, weights, channel_weights, level, compiled)
    return cast(Tensor, distance if scale == 1 else distance * scale)


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
        if torch.compiler.is_compiling():
            loss, gradient = gradient_of(student, teacher, to_blocks(weights, level), channel_weights, level)
        else:
            walk = compiled_gradient if compiled and not is_small(weights, level) else stream_gradient
            loss, gradient = walk(student, teacher, weights, channel_weights, level)
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        # Multiplied in the student's precision, which the scale of a loss scaler is meant for; in place where nobody asks
        # again, as a second pyramid costs more in fresh memory than in arithmetic.
        scale = upstream.to(gradient.dtype)
        if _kept(scale):
            gradient = gradient * scale
        elif scale.device.type != "cpu" or float(scale) != 1:  # looking costs nothing on a CPU alone
            gradient.mul_(scale)
        return gradient, None, None, None, None, None


def _kept(scale: Tensor) -> bool:
    """Whether the gradient is needed again, as far as torch tells: the graph is kept, or there is a batch of scales."""
    ask = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    if torch.compiler.is_compiling() or ask is None or bool(ask()):
        return True
    transforms = torch._C._functorch
    return bool(transforms.is_batchedtensor(scale) or transforms.is_legacy_batchedtensor(scale))


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
