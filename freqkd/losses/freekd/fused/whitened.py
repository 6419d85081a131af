"""Squared Haar details of the difference of two maps, whitened, with its gradient computed in the same passes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from freqkd.losses.freekd.fused.distance import scaled
from freqkd.losses.freekd.whitening import white_gains
from freqkd.utils.checks import upcast


def whitened_details(student: Tensor, teacher: Tensor, depth: int) -> Tensor:
    r"""Return the squared detail coefficients of s - t, times the `white_gains` of their bands, over the number of values.

    .. math:: \frac{1}{N C H W} \sum_b g_b \sum (t_b - s_b)^2

    Both maps are transformed in place: of two neighbours a and b that are means of p and q positions, the second becomes
    b - a, whose square counts pq / (p + q), and the first their mean. So blocks that a border cuts need no padding. The
    gradient is the transposed transform of the weighted differences.

    Shape:
        student, teacher: (N, C, H, W). Output: a scalar. The teacher receives no gradient.

    Example:
        >>> student, teacher = torch.zeros(1, 1, 2, 2), torch.tensor([[[[1.0, 2.0], [3.0, 5.0]]]])
        >>> round(whitened_details(student, teacher, 1).item(), 4)  # bands -2.5, -1.5, 0.5: each costs (8.75 / 3) / 4
        2.1875
    """
    student, teacher = upcast(student), upcast(teacher.detach())
    with torch.autocast(student.device.type, enabled=False):
        return cast(Tensor, cast(Any, _WhitenedDetails).apply(student, teacher, depth))


@dataclass(frozen=True)
class _Halves:
    """How one axis is split at a level: pairs of cells, `shares` q / (p + q), `weights` pq / (p + q), positions in a pair."""

    shares: Tensor
    weights: Tensor
    sizes: Tensor


def _axis(length: int, depth: int, like: Tensor) -> list[_Halves]:
    """Return the levels of an axis; a last cell without a partner stays as it is."""
    sizes, levels = like.new_ones(length), []
    for _ in range(depth):
        second = sizes[1::2]
        first, alone = sizes[0::2][: len(second)], sizes[2 * len(second) :]
        both = first + second
        sizes = torch.cat([both, alone])
        levels.append(_Halves(second / both, first * second / both, sizes))
    return levels


def _split(x: Tensor, level: int, halves: _Halves, dim: int, transposed: bool = False) -> None:
    """Turn neighbours along an axis into mean and difference, in place, or do the transpose of that."""
    grid = x[..., :: 2**level, :: 2**level]
    if dim == -2:
        first, second, shares = grid[..., 0::2, :], grid[..., 1::2, :], halves.shares[:, None]
    else:
        first, second, shares = grid[..., 0::2], grid[..., 1::2], halves.shares
    first = first.narrow(dim, 0, second.shape[dim])
    if transposed:
        first.sub_(second.addcmul_(first, shares))
    else:
        first.addcmul_(second.sub_(first), shares)


def _bands(x: Tensor, rows: list[_Halves], columns: list[_Halves]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the detail bands of a transformed map, and what their squares count."""
    for level, (row, column) in enumerate(zip(rows, columns)):
        grid = x[..., :: 2**level, :: 2**level]
        yield grid[..., 1::2, 0::2], row.weights[:, None] * column.sizes
        yield grid[..., 0::2, 1::2], row.sizes[:, None] * column.weights
        yield grid[..., 1::2, 1::2], row.weights[:, None] * column.weights


def _transform(x: Tensor, rows: list[_Halves], columns: list[_Halves]) -> list[Tensor]:
    """Transform a map in place, and return the sum of the squared coefficients of every detail band."""
    for level, (row, column) in enumerate(zip(rows, columns)):
        _split(x, level, row, -2)
        _split(x, level, column, -1)
    return [(band.square().sum((0, 1)) * weight).sum() for band, weight in _bands(x, rows, columns)]


class _WhitenedDetails(torch.autograd.Function):
    """The gradient is made in forward, in the memory of the difference."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, depth: int) -> Tensor:
        rows, columns = (_axis(length, depth, student) for length in student.shape[-2:])
        images = student.shape[0] * student.shape[1]
        sides = [row.sizes.numel() * column.sizes.numel() for row, column in zip(rows, columns) for _ in range(3)]
        counts = student.new_tensor(sides) * images
        gains = white_gains(torch.stack(_transform(teacher.clone(), rows, columns)) / counts, counts)
        left = student - teacher
        errors = torch.stack(_transform(left, rows, columns))
        for gain, (band, weight) in zip(gains.unbind(), _bands(left, rows, columns)):
            band.mul_(weight * (gain * (2 / student.numel())))
        left[..., :: 2**depth, :: 2**depth] = 0
        for level in reversed(range(depth)):
            _split(left, level, columns[level], -1, transposed=True)
            _split(left, level, rows[level], -2, transposed=True)
        ctx.save_for_backward(left)
        return (errors * gains).sum() / student.numel()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (left,) = ctx.saved_tensors
        return scaled(left, upstream), None, None
