"""The masked L1 distance of Haar subbands in a few passes: its gradient is known as soon as the signs are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from freqkd.losses.haar_compiled import admits, compiled_canvas_gradient, gradient_of
from freqkd.losses.haar_strips import Strips
from freqkd.losses.haar_weights import point_weights, precision

# Numbers per tile of the scratch on a CPU: 4 MB in float32, so that the passes over a tile stay in the cache.
TILE = 2**20


def haar_distance(
    students: Sequence[Tensor],
    teachers: Sequence[Tensor],
    weights: Tensor,
    channel_weights: Sequence[Tensor] | None = None,
    level: int = 3,
    compiled: bool = False,
    scales: Sequence[float] | None = None,
) -> Tensor:
    r"""Return the weighted L1 distance of the Haar subbands of two pyramids, summed over the maps m.

    .. math:: \sum_m scale_m \sum_{b,c,p} w_{b,p} \, | \omega_c \, (t_b - s_b)_{c,p} |

    The gradient with respect to s is the inverse transform of minus :math:`w \omega` times the signs. It is computed on the
    way and kept in the student's precision: backward only scales it.

    Args:
        students: the student's maps, all of one batch size, precision and number of channels.
        teachers: the teacher's maps; they receive no gradient.
        weights: w, on the canvas of `Strips`, see `haar_weights`; receives no gradient.
        channel_weights: omega of each map; they receive no gradient. None is ones.
        level: levels of the transform.
        compiled: let `torch.compile` fuse it where the first map is channels last; the first call takes some ten seconds.
        scales: a factor for each map; None is ones.

    Shape:
        students, teachers: (N, C, H, W); weights: (N or 1, 1, 2^level, columns); channel_weights: (N or 1, C).
        Output: a scalar.

    Example:
        >>> student, teacher = torch.zeros(1, 1, 2, 2), torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> haar_distance([student], [teacher], torch.full((1, 1, 2, 2), 0.5), level=1).item()  # bands 5, -2, -1, 0
        8.0
    """
    if scales is not None and students[0].dtype in (torch.float32, torch.float64):
        own = weights.split_with_sizes(Strips.of(students, level).lengths, -1)
        weights, scales = torch.cat([part * scale for part, scale in zip(own, scales)], -1), None
    tensors = (*students, *teachers, *(channel_weights or ()))
    distances = cast(Any, _HaarDistance).apply(level, compiled, len(students), weights, *tensors)
    if scales is not None:  # a gradient that is kept in half precision would underflow with them
        distances = distances * torch.tensor(scales, dtype=distances.dtype).to(distances.device)
    return cast(Tensor, distances.sum())


def pointed_distance(
    pairs: Sequence[tuple[Tensor, Tensor]],
    tokens: Sequence[Tensor],
    omegas: Sequence[Tensor | None],
    *,
    level: int,
    include_low: bool,
    orientations: str,
    compiled: bool = False,
) -> Tensor:
    """Return `freekd_loss`, summed over pairs of maps, with the masks that tokens make of the teacher's.

    Maps alike in batch size, number of channels, precision and tokens share a canvas. All maps have channel weights, or
    none has.
    """
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, (student, teacher) in enumerate(pairs):
        key = (student.shape[:2], student.dtype, teacher.dtype, student.device, tokens[index].shape)
        groups.setdefault(key, []).append(index)
    losses = []
    for group in groups.values():
        students, teachers = ([pairs[index][side] for index in group] for side in (0, 1))
        with torch.no_grad():
            own = [tokens[index] for index in group]
            weights, scales = point_weights(teachers, own, level, include_low, orientations)
        weights = weights.to(precision(students[0]))
        gains = [omega for index in group if (omega := omegas[index]) is not None]
        teachers = [teacher.detach() for teacher in teachers]
        losses.append(haar_distance(students, teachers, weights, gains, level, compiled, scales))
    return torch.stack(losses).sum()


Turn = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]


class _HaarDistance(torch.autograd.Function):
    """One number for each map, so that a scale can be left out of gradients in half precision."""

    @staticmethod
    def forward(ctx: Any, level: int, compiled: bool, count: int, weights: Tensor, *tensors: Tensor) -> Tensor:
        students, teachers, omegas = tensors[:count], tensors[count : 2 * count], tensors[2 * count :]
        if torch.compiler.is_compiling():
            losses, gradients = _traced(students, teachers, weights, omegas, level)
        else:
            losses, gradients = stream_gradient(students, teachers, weights, omegas, level, compiled)
        ctx.save_for_backward(*gradients)
        ctx.others = len(tensors) - count
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradients = [scaled(own, scale) for own, scale in zip(ctx.saved_tensors, upstream.unbind(-1))]
        return (None, None, None, None, *gradients, *(None for _ in range(ctx.others)))


def scaled(gradient: Tensor, upstream: Tensor) -> Tensor:
    """Multiply in the student's precision, which the scale of a loss scaler is meant for.

    In place where nobody asks again: a second pyramid costs more in fresh memory than in arithmetic.
    """
    scale = upstream.to(gradient.dtype)
    if _kept(scale):
        return gradient * scale
    if scale.device.type != "cpu" or float(scale) != 1:  # looking costs nothing on a CPU alone
        gradient.mul_(scale)
    return gradient


def _kept(scale: Tensor) -> bool:
    """Whether the gradient is needed again, as far as torch tells: the graph is kept, or there is a batch of scales."""
    ask = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    if torch.compiler.is_compiling() or ask is None or bool(ask()):
        return True
    transforms = torch._C._functorch
    return bool(transforms.is_batchedtensor(scale) or transforms.is_legacy_batchedtensor(scale))


def _traced(
    students: Sequence[Tensor], teachers: Sequence[Tensor], weights: Tensor, omegas: Sequence[Tensor], level: int
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return losses and gradients map by map, for somebody else's compiler."""
    own = weights.split_with_sizes(Strips.of(students, level).lengths, -1)
    gains: Sequence[Tensor | None] = omegas or [None] * len(own)
    found = [gradient_of(*maps, level) for maps in zip(students, teachers, own, gains)]
    return torch.stack([loss for loss, _ in found]), tuple(gradient for _, gradient in found)


def stream_gradient(
    students: Sequence[Tensor],
    teachers: Sequence[Tensor],
    weights: Tensor,
    omegas: Sequence[Tensor],
    level: int,
    compiled: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return losses and gradients of `haar_distance`, tile by tile in one scratch.

    A tile is as much of the canvas as stays in the cache on a CPU, and all of it elsewhere, where launches cost more than
    cache misses.
    """
    strips = Strips.of(students, level)
    batch, channels = students[0].shape[:2]
    last = students[0].is_contiguous(memory_format=torch.channels_last)
    order = torch.channels_last if last else torch.contiguous_format

    def canvas(columns: int) -> Tensor:
        shape = (batch, channels, strips.block, columns)
        return torch.empty(shape, dtype=weights.dtype, device=weights.device, memory_format=order)

    turn: Turn = _turn_in_place
    blocks = TILE // (batch * channels * strips.block**2)
    if weights.device.type != "cpu":
        tiles, scratch = [strips.whole()], canvas(strips.begins[-1])
        turn = compiled_canvas_gradient(dynamic=True) if compiled and last else turn
        lengths = [scratch.shape[-1]]
    elif compiled and last and admits(batch, channels, level, weights.dtype, weights.shape[0]):
        # All tiles of one size, whatever the maps; half as large, as a kernel leaves a second one.
        scratch = canvas(max(blocks // 2, 1) * strips.block)
        tiles = strips.tiles(scratch.shape[-1], exact=True)
        turn = compiled_canvas_gradient(dynamic=False)
        lengths = [scratch.shape[-1]] * len(tiles)
        weights = F.pad(weights, (0, sum(lengths) - weights.shape[-1]))
    else:
        tiles = strips.tiles(blocks * strips.block)
        lengths = [pieces[-1].end for pieces in tiles]
        scratch = canvas(max(lengths))
        turn = partial(_turn_in_place, spare=torch.empty_like(scratch))
    gradients = tuple(torch.empty_like(student, memory_format=order) for student in students)
    gains = [omega.to(weights.dtype)[:, :, None, None] for omega in omegas]
    sums: list[Tensor] = []
    for pieces, weight in zip(tiles, weights.split_with_sizes(lengths, -1)):
        tile = scratch[..., : weight.shape[-1]]
        for piece in pieces:
            strips.clear_padding(tile, piece)
            for place, ours, theirs in strips.match(tile, piece, students[piece.index], teachers[piece.index]):
                _subtract(theirs, ours, place)
            if gains:
                strips.stretch(tile, piece).mul_(gains[piece.index])
        distances, turned = turn(tile, weight.contiguous(), level)
        sums.append(distances)
        for piece in pieces:
            if gains:
                strips.stretch(turned, piece).mul_(gains[piece.index])
            for place, part in strips.match(turned, piece, gradients[piece.index]):
                part.copy_(place)
    blocks_of = [length // strips.block for length in strips.lengths]
    own = torch.cat(sums)[: sum(blocks_of)].split_with_sizes(blocks_of)
    return torch.stack([part.sum() for part in own]), gradients


def _turn_in_place(tile: Tensor, weight: Tensor, level: int, spare: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Do what `canvas_gradient` does, every pass in place."""
    corners = [tile]
    for _ in range(level):
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
    return torch.unflatten(distances, 0, (-1, 2**level)).sum(1), tile


def _subtract(x: Tensor, y: Tensor, out: Tensor) -> None:
    """Write x - y, in the precision of `out`, which may be greater than theirs."""
    if x.dtype == y.dtype == out.dtype:
        torch.sub(x, y, out=out)
    else:
        out.copy_(x).sub_(y)


def _split_in_place(x: Tensor) -> None:
    """Replace the two halves of every pair by their sum and difference, rows first, then columns."""
    for even, odd in ((x[..., 0::2, :], x[..., 1::2, :]), (x[..., 0::2], x[..., 1::2])):
        even.add_(odd)
        torch.add(even, odd, alpha=-2, out=odd)
