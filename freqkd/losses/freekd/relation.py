"""Position-aware relations: correlations of a map's channels with those of the next deeper level, and channel weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqkd.kan import KANLinear
from freqkd.losses.freekd.fused.relation import paired_relation_logits, relation_logits
from freqkd.utils.checks import WIDEST, check_map, check_positive, check_same_shape, check_whole, upcast

__all__ = ["ChannelGate", "KANGate", "attention_weights", "channel_relation", "relation_weights"]

TEMPERATURE = 0.25


def channel_relation(
    feat: Tensor, deeper: Tensor | None = None, temperature: float = TEMPERATURE, fused: bool = True
) -> Tensor:
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
        fused: compute the same logits without resizing the deeper map; False takes the formula as it stands.

    Shape:
        feat: (N, C, H, W); deeper: (N, C', h, w); output: (N, C', C), rows sum to 1.

    Raises:
        ValueError: an argument is not a map, batch sizes differ, or `temperature` is not above 0.

    References:
        FreeKD, arXiv 2311.12079, position-aware relation. The paper writes softmax(psi(F) F^T) and leaves open how psi
        resizes and how the products are scaled: unscaled, they grow with H * W and the softmax saturates.
        Differs from the released program, which has no such weight.

    Example:
        >>> feat = torch.tensor([[[[0.0, 1.0]], [[5.0, 9.0]], [[1.0, 0.0]]]])
        >>> channel_relation(feat, temperature=1.0)[0, 0].mul(100).round().tolist()  # correlations 1, 1, -1
        [47.0, 47.0, 6.0]
    """
    check_relation_maps(feat, deeper)
    check_positive("temperature", temperature)
    with torch.autocast(feat.device.type, enabled=False):
        if fused and not torch.compiler.is_compiling():
            return relation_logits(feat, deeper, temperature).softmax(-1)
        keys = upcast(feat)
        resized = (
            keys
            if deeper is None
            else F.interpolate(upcast(deeper), size=keys.shape[-2:], mode="bilinear", align_corners=False)
        )
        return (_unit_channels(resized) @ _unit_channels(keys).transpose(1, 2) / temperature).softmax(-1)


def check_relation_maps(feat: Tensor, deeper: Tensor | None, owner: str = "") -> None:
    """Raise ValueError unless a map and its next deeper level, if any, are maps of one batch."""
    check_map(f"{owner}feat", feat)
    if deeper is None:
        return
    check_map(f"{owner}deeper", deeper)
    if deeper.shape[0] != feat.shape[0]:
        raise ValueError(
            f"{owner}deeper must have the batch size of {owner}feat, {feat.shape[0]}, got {deeper.shape[0]}"
        )


def _unit_channels(x: Tensor) -> Tensor:
    """Return the centred channels at unit length, (N, C, H W); a constant channel stays near 0."""
    rows = x.flatten(2)
    mean = rows.mean(2, keepdim=True)
    least = mean.abs() * (1e-5 * rows.shape[2] ** 0.5) + torch.finfo(rows.dtype).tiny ** 0.5
    squares = (rows - mean).square().sum(2, keepdim=True)
    return (rows - mean) / torch.maximum(squares, least.square()).sqrt()


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
    stage, where the teacher's map times omega enters the teacher's own loss, and frozen in distillation: a gate trained
    by the loss that it multiplies would learn to make it small.

    Args:
        channels: C.
        reduction: the hidden layer has max(C / reduction, 8) units.

    Shape:
        relation: (N, C, C) of `channel_relation`; output: (N, C).

    Raises:
        ValueError: the relation has another number of channels.

    References:
        FreeKD, arXiv 2311.12079: omega is "a gate MLP" of A; its shape and its training are choices of this package.

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
        _check_relation(relation, self.channels)
        # Entries of A are near 1 / C: times C they reach the MLP near 1, whatever C.
        scaled = relation.transpose(1, 2).to(cast(nn.Linear, self.mlp[0]).weight.dtype) * self.channels
        logits = self.mlp(scaled).squeeze(-1)
        return 2 * cast(Tensor, logits).sigmoid()


class KANGate(nn.Module):
    r"""`ChannelGate` with a sum of learned functions in the place of the MLP.

    .. math:: \omega_j = 2 \sigma \Bigl( \sum_i \varphi_i(C A_{i j} - 1) \Bigr)

    with the functions :math:`\varphi` of a `KANLinear`, the same ones for all channels.

    Args:
        channels: C.

    Shape:
        relation: (N, C, C) of `channel_relation`; output: (N, C).

    Raises:
        ValueError: the relation has another number of channels.

    References:
        FreeKD, arXiv 2311.12079, says "a gate MLP"; functions instead of an MLP are a choice of this package.

    Example:
        >>> gate = KANGate(channels=4)
        >>> gate(channel_relation(torch.randn(2, 4, 5, 5))).tolist()[0]
        [1.0, 1.0, 1.0, 1.0]
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        check_whole("channels", channels, 1, most=WIDEST)
        self.channels = channels
        self.kan = KANLinear(channels, 1, grid_range=4.0)
        nn.init.zeros_(self.kan.base_weight)
        nn.init.zeros_(self.kan.spline_weight)

    def forward(self, relation: Tensor) -> Tensor:
        """Return the weight of every channel."""
        _check_relation(relation, self.channels)
        columns = relation.transpose(1, 2) * self.channels - 1  # near 0, whatever C
        return 2 * cast(Tensor, self.kan(columns.to(self.kan.base_weight.dtype))).squeeze(-1).sigmoid()


def _check_relation(relation: Tensor, channels: int) -> None:
    if relation.dim() != 3 or tuple(relation.shape[1:]) != (channels, channels):
        raise ValueError(f"relation must be (N, {channels}, {channels}), got shape {tuple(relation.shape)}")


GATES: dict[str, Callable[[int], nn.Module]] = {"gate": ChannelGate, "kan-gate": KANGate}  # by the word for `relation=`


@torch.no_grad()
def relation_weights(
    student_feat: Tensor,
    teacher_feat: Tensor,
    student_deeper: Tensor | None = None,
    teacher_deeper: Tensor | None = None,
    *,
    gate: Callable[[Tensor], Tensor] | None = None,
    temperature: float = TEMPERATURE,
    fused: bool = True,
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
        fused: see `channel_relation`.

    Shape:
        Maps: (N, C, H, W); output: (N, C).

    Raises:
        ValueError: student and teacher differ in shape, or one is not a map.

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
    check_relation_maps(student_feat, student_deeper, "student_")
    check_relation_maps(teacher_feat, teacher_deeper, "teacher_")
    check_positive("temperature", temperature)
    check_same_shape(student_feat, teacher_feat)
    omega = attention_weights if gate is None else gate
    with torch.autocast(student_feat.device.type, enabled=False):
        if fused and not torch.compiler.is_compiling():
            logits = paired_relation_logits(student_feat, teacher_feat, student_deeper, teacher_deeper, temperature)
            student, teacher = (one.softmax(-1) for one in logits)
        else:
            student = channel_relation(student_feat, student_deeper, temperature, fused=False)
            teacher = channel_relation(teacher_feat, teacher_deeper, temperature, fused=False)
        weights = omega(teacher) * omega(student)
    return weights / weights.mean(1, keepdim=True)
