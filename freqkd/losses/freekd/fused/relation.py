"""Correlations of channels without resizing a map: psi(F') F^T = F' (psi^T F)^T, with a quarter of the positions."""

from __future__ import annotations

import torch
from torch import Tensor

from freqkd.losses.freekd.fused.resizing import Factors, resize, resize_back, resizing, squares_of_resized
from freqkd.utils.checks import upcast

TILE = 2**19  # numbers of a map that are worked on at once on a CPU, so that they stay in its cache


def relation_logits(feat: Tensor, deeper: Tensor | None, temperature: float) -> Tensor:
    """Return the logits of `channel_relation`, (N, C', C), in the precision of losses and outside of autocast."""
    keys = _channels_last(feat)
    count = keys[0, 0].numel()
    if deeper is None:
        mean = keys.sum(3, keepdim=True).sum(2, keepdim=True) / count  # rows first: one long sum rounds more
        queries = centred = keys - mean
        query_norm = key_norm = _norm(_squares(keys, mean), mean, count)
    else:
        queries = _channels_last(deeper)
        share, factors = resizing(queries, keys)
        centred, mean = _centre_back(keys, queries.shape)
        key_norm = _norm(_squares(keys, mean), mean, count)
        # The mean of psi(F'), taken off before: psi averages its input, so this leaves psi(F') centred.
        mean = (queries * share).sum((2, 3), keepdim=True)
        queries = queries - mean
        resized = resize(queries, keys.shape) if factors is None else queries
        query_norm = _norm(_squares(resized, torch.zeros_like(mean), factors), mean, count)
    # One after the other: the product of two tiny norms, of channels that are zero, would be zero.
    products = queries.flatten(2) @ centred.flatten(2).transpose(1, 2)
    return products / (query_norm * temperature).flatten(2) / key_norm.flatten(2).transpose(1, 2)


def paired_relation_logits(
    student: Tensor, teacher: Tensor, student_deeper: Tensor | None, teacher_deeper: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return the logits of both networks; small maps are worked on as one batch."""
    small = student.numel() <= TILE * (16 if student.is_cuda else 1)
    if small and _alike(student, teacher) and _alike(student_deeper, teacher_deeper, len(student)):
        pair = None
        if student_deeper is not None and teacher_deeper is not None:
            pair = torch.cat([teacher_deeper, student_deeper])
        teacher_logits, student_logits = relation_logits(torch.cat([teacher, student]), pair, temperature).chunk(2)
        return student_logits, teacher_logits
    return (
        relation_logits(student, student_deeper, temperature),
        relation_logits(teacher, teacher_deeper, temperature),
    )


def _alike(one: Tensor | None, other: Tensor | None, batch: int | None = None) -> bool:
    if one is None or other is None:
        return one is other
    return one.shape == other.shape and one.dtype == other.dtype and one.shape[0] == (batch or one.shape[0])


def _channels_last(x: Tensor) -> Tensor:
    """Lay a map out channels last, where resizing and its transpose are several times faster."""
    return upcast(x).contiguous(memory_format=torch.channels_last)


def _centre_back(keys: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Return psi^T (F - m) and m, the means of F.

    Where psi doubles a map, psi^T 1 = 4: psi^T F has the means 4 m, taken off there, on a quarter of the positions.
    Elsewhere its weights are rounded, which a large m would show, as it would in products, which may be set to TF32.
    """
    products = keys.is_cuda and torch.are_deterministic_algorithms_enabled()
    if products or (keys.shape[2], keys.shape[3]) != (2 * shape[2], 2 * shape[3]):
        mean = keys.sum(3, keepdim=True).sum(2, keepdim=True) / keys[0, 0].numel()
        return resize_back(keys - mean, shape), mean
    back = resize_back(keys, shape)
    mean = back.mean((2, 3), keepdim=True)
    return back.sub_(mean), mean / 4


def _squares(x: Tensor, mean: Tensor, factors: Factors | None = None) -> Tensor:
    """Return the sums of (x - mean)^2 over the positions, or with `factors` of psi(x)^2 for an x of mean 0."""
    height = x.shape[2]
    step = max(1, TILE // x[:, :, 0].numel()) if x.device.type == "cpu" else height
    sums = []
    for first in range(0, height, step):
        last = min(first + step, height)
        if factors is None:
            squares = (x[:, :, first:last] - mean).square_()
        else:
            squares = squares_of_resized(x, factors, first, last)
        sums.append(squares.sum((2, 3), keepdim=True))
    return sums[0] if len(sums) == 1 else torch.stack(sums).sum(0)


def _norm(squares: Tensor, mean: Tensor, count: int) -> Tensor:
    """Return the norm of every centred channel; above 0, by the smallest number that has a square.

    A constant channel leaves rounding noise: it is measured against the channel's own size, so that it counts as nothing.
    """
    least = mean.abs() * (1e-5 * count**0.5) + torch.finfo(mean.dtype).tiny ** 0.5
    return torch.maximum(squares, least.square()).sqrt()  # in this order, for the gradient of a constant channel
