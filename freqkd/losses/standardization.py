"""Standardisation of feature maps, so that networks and levels of different magnitude can be compared."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from freqkd.utils.checks import upcast

STANDARDIZE = ("none", "level", "channel", "both")
EPS = 1e-6


def standardized(x: Tensor, per_channel: bool = True, unbiased: bool = True) -> Tensor:
    r"""Return a map of which every channel has mean 0 and deviation 1 over batch and positions.

    .. math:: \hat x = (x - \mu_c) / (\sigma_c + 10^{-6})

    A constant channel, of a deviation of at most 1e-6, or 1e-6 of its mean, which is rounding, gives 0, and its gradient is 0.

    Args:
        x: (N, C, H, W).
        per_channel: False: all channels are divided by one deviation, the root of the mean of their squares.
        unbiased: the deviation is the unbiased one; False: that of a batch norm, so that the mean square is 1.

    >>> standardized(torch.tensor([[[[1.0, 3.0]]]]))[0, 0]
    tensor([[-0.7071,  0.7071]])
    """
    mean = x.mean((0, 2, 3), keepdim=True)
    centred = x - mean
    dims = (0, 2, 3) if per_channel else (0, 1, 2, 3)
    count = x.numel() // x.shape[1]
    # A norm, not the root of a sum: its gradient is 0, not infinite, where a channel is constant. There, the gradient of the
    # quotient would be the loss's times 1e6.
    norm: Tensor = torch.linalg.vector_norm(centred, dim=dims, keepdim=True)
    deviation = norm / math.sqrt(max(count - unbiased, 1) * (1 if per_channel else x.shape[1]))
    size = mean.detach().abs() if per_channel else mean.detach().abs().amax()
    return torch.where(deviation > EPS * size.clamp(min=1), centred / (deviation + EPS), 0)


def standardize_pair(student: Tensor, teacher: Tensor, how: str) -> tuple[Tensor, Tensor]:
    """Return both maps as a loss compares them.

    Args:
        student: (N, C, H, W).
        teacher: likewise.
        how: "none": as they are; "level": the teacher's channels centred and divided by one deviation; "channel": by their
            own; "both": student and teacher by the deviations of their channels, as PKD does.

    >>> student, teacher = torch.tensor([[[[0.0, 2.0]]]]), torch.tensor([[[[5.0, 9.0]]]])
    >>> [x[0, 0] for x in standardize_pair(student, teacher, "channel")]
    [tensor([[0., 2.]]), tensor([[-0.7071,  0.7071]])]
    """
    if how == "none":
        return student, teacher
    teacher = standardized(upcast(teacher), per_channel=how != "level")
    return (standardized(upcast(student)) if how == "both" else student), teacher
