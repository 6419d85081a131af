"""Position-aware relations: how strongly each channel of a map answers to those of the next deeper level."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqkd.checks import check_at_least, check_map, check_same_shape, upcast

TEMPERATURE = 0.25


def channel_relation(feat: Tensor, deeper: Tensor | None = None, temperature: float = TEMPERATURE) -> Tensor:
    r"""Return how the channels of a map relate to those of the next deeper level.

    .. math:: A = \mathrm{softmax}\big( \rho(\psi(F), F) / \tau \big)

    :math:`\psi(F)` is the deeper map resized to F (bilinear), and :math:`\rho` the correlation over the
    positions: channels are centred and scaled to unit length before they are multiplied. So the logits lie within
    :math:`\pm 1/\tau` whatever the number of positions, and A is unchanged by a shift, or by a scale above
    zero, of any channel. A channel that is constant relates to all channels equally.

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
    check_at_least("temperature", temperature, 0, exclusive=True)
    if deeper is not None:
        check_map("deeper", deeper)
        if deeper.shape[0] != feat.shape[0]:
            raise ValueError(f"deeper must have the batch size of feat, {feat.shape[0]}, got {deeper.shape[0]}")
    with torch.autocast(feat.device.type, enabled=False):
        keys = _last(feat)
        mean = _sum(keys) / keys[0, 0].numel()
        centred = keys - mean[:, :, None, None]
        key_norm = _norm(centred, mean)
        if deeper is None:
            products, query_norm = _products(centred, centred), key_norm
        else:
            queries = _last(deeper)
            # psi averages its input: the mean of psi(F), taken off before, leaves psi(F) centred.
            ones = torch.ones_like(keys[:, :1])
            mean = _sum(queries * _resize_back(ones, queries.shape)) / ones[0].numel()
            shifted = queries - mean[:, :, None, None]
            query_norm = _norm(_resize(shifted, feat.shape), mean)
            products = _products(shifted, _resize_back(centred, queries.shape))
        # One after the other: the product of two tiny norms, of channels that are zero, would be zero.
        logits = products / query_norm[:, :, None] / key_norm[:, None, :]
        return (logits / temperature).softmax(dim=-1)


def _last(x: Tensor) -> Tensor:
    """Lay a map out channels last, where resizing and its transpose are several times faster."""
    return upcast(x).contiguous(memory_format=torch.channels_last)


def _resize(x: Tensor, shape: torch.Size) -> Tensor:
    return F.interpolate(x, size=shape[-2:], mode="bilinear", align_corners=False)


def _resize_back(x: Tensor, shape: torch.Size) -> Tensor:
    """Apply the transpose of the resizing from `shape` to the size of x.

    (psi(F) F^T) is also F' (psi^T F)^T with F' the deeper map: a product of a quarter of the positions.
    """
    size = [x.shape[0], x.shape[1], shape[-2], shape[-1]]
    if x.is_cuda and torch.are_deterministic_algorithms_enabled():
        rows, columns = (_resize_matrix(shape[dim], x.shape[dim], x) for dim in (-2, -1))
        return rows.t() @ x @ columns
    return cast(Tensor, torch.ops.aten.upsample_bilinear2d_backward(x, list(x.shape[-2:]), size, False))


def _resize_matrix(before: int, after: int, like: Tensor) -> Tensor:
    """Return the (after, before) matrix of the resizing along one dimension."""
    identity = torch.eye(before, dtype=like.dtype, device=like.device)
    return F.interpolate(identity[None], size=after, mode="linear", align_corners=False)[0].t()


def _sum(x: Tensor) -> Tensor:
    """Sum over the positions, (N, C): rows first, as one long sum rounds more."""
    return x.permute(0, 2, 3, 1).sum(2).sum(1)


def _products(queries: Tensor, keys: Tensor) -> Tensor:
    """Return the (N, C', C) inner products of the channels of two maps of one size."""
    pixels = keys.permute(0, 2, 3, 1).flatten(1, 2)
    return queries.permute(0, 2, 3, 1).flatten(1, 2).transpose(1, 2) @ pixels


def _norm(centred: Tensor, mean: Tensor) -> Tensor:
    """Return the norm of every centred channel, (N, C).

    A constant channel leaves rounding noise: measured against the channel's own size, so that noise stays nothing.
    """
    squares = _sum(centred * centred)
    size = squares + centred[0, 0].numel() * mean.square()
    return torch.maximum(squares.sqrt(), 1e-5 * size.sqrt() + torch.finfo(centred.dtype).tiny)


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
        check_at_least("channels", channels, 1)
        check_at_least("reduction", reduction, 1)
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
        logits = self.mlp(relation.transpose(1, 2) * self.channels).squeeze(-1)
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
        weights = omega(channel_relation(teacher_feat, teacher_deeper, temperature))
        weights = weights * omega(channel_relation(student_feat, student_deeper, temperature))
    return weights / weights.mean(1, keepdim=True)
