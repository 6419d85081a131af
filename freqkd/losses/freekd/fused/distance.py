"""Masked L1 distance of Haar subbands, with its gradient computed in the same passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from freqkd.losses.freekd.fused.guards import is_wrapped, keeps_graph
from freqkd.losses.freekd.fused.strips import Strips
from freqkd.losses.freekd.fused.weights import precision, weights_of_tokens

# Numbers per tile of the scratch on a CPU: 4 MB in float32, so that the passes over a tile stay in the cache.
TILE = 2**20


def haar_distance(
    students: Sequence[Tensor],
    teachers: Sequence[Tensor],
    weights: Tensor,
    channel_weights: Sequence[Tensor] | None = None,
    depth: int = 3,
    scales: Sequence[float] | None = None,
) -> Tensor:
    r"""Return the weighted L1 distance of the Haar subbands of two pyramids, summed over the maps m.

    .. math:: \sum_m scale_m \sum_{b,c,p} w_{b,p} \, | \omega_c \, (t_b - s_b)_{c,p} |

    The gradient with respect to s is the inverse transform of minus :math:`w \omega` times the signs. It is computed on the
    way and kept in the student's precision: backward only scales it.

    Args:
        students: the student's maps, all of one batch size, precision and number of channels.
        teachers: the teacher's maps; they receive no gradient.
        weights: w, on the canvas of `Strips`, see `weights_of_masks`; receives no gradient.
        channel_weights: omega of each map; they receive no gradient. None is ones.
        depth: levels of the transform.
        scales: a factor for each map; None is ones.

    Shape:
        students, teachers: (N, C, H, W); weights: (N or 1, 1, 2^depth, columns); channel_weights: (N or 1, C).
        Output: a scalar.

    Example:
        >>> student, teacher = torch.zeros(1, 1, 2, 2), torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> haar_distance([student], [teacher], torch.full((1, 1, 2, 2), 0.5), depth=1).item()  # bands 5, -2, -1, 0
        8.0
    """
    if scales is not None and students[0].dtype in (torch.float32, torch.float64):
        own = weights.split_with_sizes(Strips.of(students, depth).lengths, -1)
        weights, scales = torch.cat([part * scale for part, scale in zip(own, scales)], -1), None
    tensors = (*students, *teachers, *(channel_weights or ()))
    distances = cast(Any, _HaarDistance).apply(depth, len(students), weights, *tensors)
    if scales is not None:  # a gradient that is kept in half precision would underflow with them
        distances = distances * torch.tensor(scales, dtype=distances.dtype).to(distances.device)
    return cast(Tensor, distances.sum())


def prompted_distance(
    students: Sequence[Tensor],
    teachers: Sequence[Tensor],
    tokens: Sequence[Tensor],
    channel_weights: Sequence[Tensor | None],
    scale_weights: Sequence[float],
) -> Tensor:
    """Return `freekd_loss`, summed over pairs of maps, with the masks that tokens make of the teacher's.

    Maps alike in batch size, number of channels, precision and tokens share a canvas. All maps have channel weights, or
    none has.
    """
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, (student, teacher) in enumerate(zip(students, teachers)):
        key = (student.shape[:2], student.dtype, teacher.dtype, student.device, tokens[index].shape)
        groups.setdefault(key, []).append(index)
    losses = []
    for group in groups.values():
        own_students, own_teachers = [students[index] for index in group], [teachers[index] for index in group]
        with torch.no_grad():
            weights, scales = weights_of_tokens(own_teachers, [tokens[index] for index in group], scale_weights)
        weights = weights.to(precision(own_students[0]))
        omegas = [omega for index in group if (omega := channel_weights[index]) is not None]
        own_teachers = [teacher.detach() for teacher in own_teachers]
        losses.append(haar_distance(own_students, own_teachers, weights, omegas, len(scale_weights) - 1, scales))
    return torch.stack(losses).sum()


class _HaarDistance(torch.autograd.Function):
    """One number for each map, so that a scale can be left out of gradients in half precision."""

    @staticmethod
    def forward(ctx: Any, depth: int, count: int, weights: Tensor, *tensors: Tensor) -> Tensor:
        students, teachers, omegas = tensors[:count], tensors[count : 2 * count], tensors[2 * count :]
        losses, gradients = distances_and_gradients(students, teachers, weights, omegas, depth)
        ctx.save_for_backward(*gradients)
        ctx.others = len(tensors) - count
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradients = [scaled(own, scale) for own, scale in zip(ctx.saved_tensors, upstream.unbind(-1))]
        return (None, None, None, *gradients, *(None for _ in range(ctx.others)))


def scaled(gradient: Tensor, upstream: Tensor) -> Tensor:
    """Multiply in the student's precision, which the scale of a loss scaler is meant for.

    In place unless the graph is kept: a second pyramid costs more in fresh memory than in arithmetic.
    """
    scale = upstream.to(gradient.dtype)
    if keeps_graph() or is_wrapped(scale):
        return gradient * scale
    if scale.device.type != "cpu" or float(scale) != 1:  # reading the number is free on a CPU alone
        gradient.mul_(scale)
    return gradient


def distances_and_gradients(
    students: Sequence[Tensor], teachers: Sequence[Tensor], weights: Tensor, omegas: Sequence[Tensor], depth: int
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return losses and gradients of `haar_distance`, tile by tile in one scratch.

    A tile is as much of the canvas as stays in the cache on a CPU, and all of it elsewhere, where launches cost more than
    cache misses.
    """
    strips = Strips.of(students, depth)
    batch, channels = students[0].shape[:2]
    last = students[0].is_contiguous(memory_format=torch.channels_last)
    order = torch.channels_last if last else torch.contiguous_format
    spare: Tensor | None = None
    if weights.device.type == "cpu":
        tiles = strips.tiles(TILE // (batch * channels * strips.block**2) * strips.block)
        lengths = [pieces[-1].end for pieces in tiles]
    else:
        tiles, lengths = [strips.whole()], [strips.begins[-1]]
    shape = (batch, channels, strips.block, max(lengths))
    scratch = torch.empty(shape, dtype=weights.dtype, device=weights.device, memory_format=order)
    if weights.device.type == "cpu":
        spare = torch.empty_like(scratch)
    gradients = tuple(torch.empty_like(student, memory_format=order) for student in students)
    gains = [omega.to(weights.dtype)[:, :, None, None] for omega in omegas]
    sums: list[Tensor] = []
    for pieces, weight in zip(tiles, weights.split_with_sizes(lengths, -1)):
        tile = scratch[..., : weight.shape[-1]]
        for piece in pieces:
            strips.clear_padding(tile, piece)
            for place, student, teacher in strips.match(tile, piece, students[piece.index], teachers[piece.index]):
                _subtract(teacher, student, place)
            if gains:
                strips.stretch(tile, piece).mul_(gains[piece.index])
        sums.append(_turn_into_gradient(tile, weight.contiguous(), depth, spare))
        for piece in pieces:
            if gains:
                strips.stretch(tile, piece).mul_(gains[piece.index])
            for place, part in strips.match(tile, piece, gradients[piece.index]):
                part.copy_(place)
    blocks_of = [length // strips.block for length in strips.lengths]
    own = torch.cat(sums).split_with_sizes(blocks_of)
    return torch.stack([part.sum() for part in own]), gradients


def _turn_into_gradient(tile: Tensor, weight: Tensor, depth: int, spare: Tensor | None = None) -> Tensor:
    """Return the distances of the columns of blocks of a canvas, and turn it in place into the gradient."""
    corners = [tile]
    for _ in range(depth):
        _split_in_place(corners[-1])
        corners.append(corners[-1][..., 0::2, 0::2])
    # One pass, but on a CPU eight times slower than two through the cache.
    if spare is None:
        norms = torch.linalg.vector_norm(tile, 1, dim=1, keepdim=True)
    else:
        norms = torch.abs(tile, out=spare[..., : tile.shape[-1]]).sum(1, keepdim=True)
    distances = norms.mul_(weight).sum((0, 1, 2))
    tile.sign_().mul_(-weight)
    for corner in reversed(corners[:-1]):
        _split_in_place(corner)  # a butterfly without its factor is its own inverse
    return torch.unflatten(distances, 0, (-1, 2**depth)).sum(1)


def _subtract(x: Tensor, y: Tensor, out: Tensor) -> None:
    """Write x - y, in the precision of `out`, which may be greater than that of x and y."""
    if x.dtype == y.dtype == out.dtype:
        torch.sub(x, y, out=out)
    else:
        out.copy_(x).sub_(y)


def _split_in_place(x: Tensor) -> None:
    """Replace the two halves of every pair by their sum and difference, rows first, then columns."""
    for even, odd in ((x[..., 0::2, :], x[..., 1::2, :]), (x[..., 0::2], x[..., 1::2])):
        even.add_(odd)
        torch.add(even, odd, alpha=-2, out=odd)
