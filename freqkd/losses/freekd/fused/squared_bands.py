"""Squared Haar coefficients of the difference of two maps, computed from block means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from freqkd.losses.freekd.fused.distance import scaled
from freqkd.losses.mse import squared_error
from freqkd.utils.checks import upcast


def squared_bands(student: Tensor, teacher: Tensor, depth: int, with_low: bool) -> Tensor:
    r"""Return the squares of all Haar coefficients of s - t, with or without the low band's, over the number of values.

    .. math:: \frac{1}{N C H W} \sum_p (d_p - \bar d_{B(p)})^2

    The transform keeps the sum of squares, and the low band is the mean of every block B of 2^depth x 2^depth positions times
    the root of their number; a block at the border has fewer. So the details are what the block means leave, and with the
    low band this is the mean squared error. The gradient is 2 / (N C H W) times what the block means leave.

    Shape:
        student, teacher: (N, C, H, W). Output: a scalar. The teacher receives no gradient.

    Example:
        >>> student, teacher = torch.zeros(1, 1, 2, 2), torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> [squared_bands(student, teacher, 1, with_low).item() for with_low in (True, False)]
        [7.5, 1.25]
    """
    student, teacher = upcast(student), upcast(teacher.detach())
    with torch.autocast(student.device.type, enabled=False):
        if with_low:
            return squared_error(student, teacher)
        return cast(Tensor, cast(Any, _SquaredDetails).apply(student, teacher, depth))


class _SquaredDetails(torch.autograd.Function):
    """One pass for the difference, one for the block means, one for the squares; the gradient is what is left, scaled."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, depth: int) -> Tensor:
        left = student - teacher
        last = left.is_contiguous(memory_format=torch.channels_last)
        for block in _blocks(left.permute(0, 2, 3, 1) if last else left.flatten(0, 1).unsqueeze(-1), 2**depth):
            block.sub_(block.sum(2, keepdim=True).sum(4, keepdim=True).div_(block.shape[2] * block.shape[4]))
        ctx.save_for_backward(left)
        # Along what is contiguous, and over few numbers: one long sum of squares rounds to four digits.
        squares: Tensor = torch.linalg.vector_norm(left, dim=1 if last else -1).square()
        return squares.sum() / left.numel()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (left,) = ctx.saved_tensors
        return scaled(left, upstream * (2 / left.numel())), None, None


def _blocks(x: Tensor, side: int) -> Iterator[Tensor]:
    """Yield views (N, rows, height, columns, width, C) of the blocks of (N, H, W, C): whole ones, and what the border cuts."""
    for rows, height in _cuts(x.shape[1], side):
        for columns, width in _cuts(x.shape[2], side):
            yield torch.unflatten(torch.unflatten(x[:, rows, columns], 2, (-1, width)), 1, (-1, height))


def _cuts(length: int, side: int) -> Iterator[tuple[slice, int]]:
    whole = length // side * side
    if whole:
        yield slice(0, whole), side
    if whole < length:
        yield slice(whole, length), length - whole
