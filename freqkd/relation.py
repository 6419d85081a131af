"""Position-aware relations: how strongly each channel of a map answers to those of the next deeper level."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from freqkd.checks import WIDEST, check_map, check_positive, check_same_shape, check_whole, upcast
from freqkd.resizing import Factors, resize, resize_back, resizing, squares_of_resized

TEMPERATURE = 0.25
TILE = 2**19  # numbers


def channel_relation(feat: Tensor, deeper: Tensor | None = None, temperature: float = TEMPERATURE) -> Tensor:
    r"""Return how the channels of a map relate to those of the next deeper level.

    .. math:: A = \mathrm{softmax}\big( \rho(\psi(F), F) / \tau \big)

    :math:`\psi(F)` is the deeper map resized to F (bilinear), and :math:`\rho` the correlation over the
    positions: channels are centred and scaled to unit length before they are multiplied. So the logits lie within
    :math:`\pm 1/\tau` whatever the number of positions, and A is unchanged by a shift, or by a scale above
    zero, of any channel. A channel that is constant relates to all channels equally, but for rounding.

    Args:
        feat: F.
        deeper: the next deeper level, any size; None relates F to itself (the last level).
        temperature: :math:`\tau`; smaller is sharper.

    Shape:
        feat: (N, C, H, W); deeper: (N, C', h, w); output: (N, C', C), rows sum to 1.

    Raises:
        ValueError: an argument is no map, batch sizes differ, or `temperature` is not above 0.

    References:
        FreeKD, arXiv 2311.12079, position-aware relation. The paper writes softmax(psi(F) F^T) and leaves open how psi
        resizes and how the products are scaled: unscaled, they grow with H * W and the softmax saturates.
        Differs from the released program, which has no such weight.

    Example:
        >>> feat = torch.tensor([[[[0.0, 1.0]], [[5.0, 9.0]], [[1.0, 0.0]]]])
        >>> channel_relation(feat, temperature=1.0)[0, 0].mul(100).round().tolist()  # correlations 1, 1, -1
        [47.0, 47.0, 6.0]
    """
    check_map("feat", feat)
    check_positive("temperature", temperature)
    if deeper is not None:
        check_map("deeper", deeper)
        if deeper.shape[0] != feat.shape[0]:
            raise ValueError(f"deeper must have the batch size of feat, {feat.shape[0]}, got {deeper.shape[0]}")
    with torch.autocast(feat.device.type, enabled=False):
        keys = _last(feat)
        count = keys[0, 0].numel()
        if deeper is None:
            mean = keys.sum(3, keepdim=True).sum(2, keepdim=True) / count  # rows first: one long sum rounds more
            queries = centred = keys - mean
            query_norm = key_norm = _norm(_squares(keys, mean), mean, count)
        else:
            queries = _last(deeper)
            share, factors = resizing(queries, keys)
            centred, mean = _centre_back(keys, queries.shape)
            key_norm = _norm(_squares(keys, mean), mean, count)
            # The mean of psi(F), taken off before: psi averages its input, so this leaves psi(F) centred.
            mean = (queries * share).sum((2, 3), keepdim=True)
            queries = queries - mean
            resized = resize(queries, keys.shape) if factors is None else queries
            query_norm = _norm(_squares(resized, torch.zeros_like(mean), factors), mean, count)
        # One after the other: the product of two tiny norms, of channels that are zero, would be zero.
        products = queries.flatten(2) @ centred.flatten(2).transpose(1, 2)
        logits = products / (query_norm * temperature).flatten(2) / key_norm.flatten(2).transpose(1, 2)
        return logits.softmax(dim=-1)


def _last(x: Tensor) -> Tensor:
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
    height, step = x.shape[2], x.shape[2]
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        step = max(1, TILE // x[:, :, 0].numel())  # what lies between x and its sums stays in the processor's cache
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

    A constant channel leaves rounding noise: measured against the channel's own size, so that noise stays nothing.
    """
    least = mean.abs() * (1e-5 * count**0.5) + torch.finfo(mean.dtype).tiny ** 0.5
    return torch.maximum(squares, least.square()).sqrt()  # in this order, for the gradient of a constant channel


def attention_weights(relation: Tensor) -> Tensor:
    """Return how much every channel is attended to: the column means of A, times C, so their mean is 1.

    Shape:
        relation: (N, C', C), rows summing to 1; output: (N, C).

    Example:
        >>> attention_weights(torch.tensor([[[0.5, 0.5], [0.75, 0.25]]])).tolist()
        [[1.25, 0.75]]
    """
    return relation.mean(1) * relation.shape[2]


class ChannelGate(nn.Module):
    r"""Learnt weight of every channel, from its column of the relation.

    .. math:: \omega_j = 2 \sigma( W_2 \, \mathrm{ReLU}(W_1 \, C A_{:,j} + b_1) + b_2 )

    One MLP serves all channels. It starts at :math:`\omega = 1` and stays in (0, 2). It is trained in the prompt
    stage, where the teacher's map times omega goes on to the teacher's own loss, and frozen in distillation: a gate
    trained by the very loss it multiplies learns to look away.

    Args:
        channels: C.
        reduction: the hidden layer has max(C / reduction, 8) units.

    Shape:
        relation: (N, C, C) of `channel_relation`; output: (N, C).

    Raises:
        ValueError: the relation has another number of channels.

    References:
        FreeKD, arXiv 2311.12079: omega is "a gate MLP" of A; its shape and its training are ours.

    Example:
        >>> gate = ChannelGate(channels=4)
        >>> gate(channel_relation(torch.randn(2, 4, 5, 5))).tolist()[0]
        [1.0, 1.0, 1.0, 1.0]
    """

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        check_whole("channels", channels, 1, most=WIDEST)
        check_whole("reduction", reduction, 1)
        self.channels = channels
        hidden = max(channels // reduction, 8)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, 1))
        last = cast(nn.Linear, self.mlp[-1])
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, relation: Tensor) -> Tensor:
        """Return the weight of every channel."""
        if relation.dim() != 3 or tuple(relation.shape[1:]) != (self.channels, self.channels):
            raise ValueError(
                f"relation must be (N, {self.channels}, {self.channels}), got shape {tuple(relation.shape)}"
            )
        # Entries of A are near 1 / C: times C they reach the MLP near 1, whatever C.
        scaled = relation.transpose(1, 2).to(cast(nn.Linear, self.mlp[0]).weight.dtype) * self.channels
        logits = self.mlp(scaled).squeeze(-1)
        return 2 * cast(Tensor, logits).sigmoid()


@torch.no_grad()
def relation_weights(
    student_feat: Tensor,
    teacher_feat: Tensor,
    student_deeper: Tensor | None = None,
    teacher_deeper: Tensor | None = None,
    *,
    gate: Callable[[Tensor], Tensor] | None = None,
    temperature: float = TEMPERATURE,
) -> Tensor:
    r"""Return the channel weights of distillation, mean 1 over the channels of every image and without gradient.

    .. math:: \omega_c \propto \omega^{teacher}_c \, \omega^{student}_c

    with :math:`\omega` = `gate(A)`, by default the parameter-free `attention_weights(A)`, and A = `channel_relation` of
    each network's own map and next deeper level.

    Args:
        student_feat: the student's map, already with the teacher's channels.
        teacher_feat: the teacher's map.
        student_deeper: the student's next deeper level; None for the last one, which relates to itself.
        teacher_deeper: the teacher's.
        gate: maps A (N, C, C) to weights (N, C), e.g. a `ChannelGate` trained in the prompt stage.
        temperature: see `channel_relation`.

    Shape:
        Maps: (N, C, H, W); output: (N, C).

    Raises:
        ValueError: student and teacher differ in shape, or one is no map.

    References:
        FreeKD, arXiv 2311.12079: omega_r = omega_teacher * omega_student. Differs from it in the normalisation, which
        keeps the weight of the loss apart from its shape, and in carrying no gradient.

    Example:
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch...>
        >>> weights = relation_weights(torch.randn(1, 3, 4, 4), torch.randn(1, 3, 4, 4))
        >>> weights.shape, round(weights.mean().item(), 4)
        (torch.Size([1, 3]), 1.0)
    """
    check_map("student_feat", student_feat)
    check_map("teacher_feat", teacher_feat)
    check_same_shape(student_feat, teacher_feat)
    omega = attention_weights if gate is None else gate
    with torch.autocast(student_feat.device.type, enabled=False):
        # Small maps cost less to copy into one batch than to visit one by one.
        small = student_feat.numel() <= TILE * (16 if student_feat.is_cuda else 1)
        batch = student_feat.shape[0]
        if small and _alike(student_feat, teacher_feat, batch) and _alike(student_deeper, teacher_deeper, batch):
            deeper = None if student_deeper is None else torch.cat([cast(Tensor, teacher_deeper), student_deeper])
            both = channel_relation(torch.cat([teacher_feat, student_feat]), deeper, temperature)
            teacher, student = both.chunk(2)
        else:
            teacher = channel_relation(teacher_feat, teacher_deeper, temperature)
            student = channel_relation(student_feat, student_deeper, temperature)
        weights = omega(teacher) * omega(student)
    return weights / weights.mean(1, keepdim=True)


def _alike(one: Tensor | None, other: Tensor | None, batch: int) -> bool:
    if one is None or other is None:
        return one is other
    return one.shape == other.shape and one.dtype == other.dtype and one.shape[0] == batch
