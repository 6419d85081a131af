"""AM-RADIO's feature loss: mostly the cosine distance of the channel vectors, and a part smooth L1."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqkd.align import Maps
from freqkd.losses.cosine import cosine_distance
from freqkd.losses.levels import sum_levels
from freqkd.utils.checks import check_at_least, check_positive

__all__ = ["AMRadioLoss", "am_radio_loss"]


def am_radio_loss(
    student: Maps, teacher: Maps, *, cosine_weight: float = 0.9, l1_weight: float = 0.1, beta: float = 2.0
) -> Tensor:
    r"""Return the weighted sum of cosine distance and smooth L1 distance, added over the levels.

    .. math:: \sum_l w_{\cos} \bigl(1 - \mathrm{mean}_{n, i} \cos(s_{l n i}, t_{l n i})\bigr)
        + w_{L1} \, \mathrm{mean}\, h(s_l - t_l),\quad
        h(d) = \begin{cases} d^2 / (2 \beta) & |d| < \beta \\ |d| - \beta / 2 & \text{else} \end{cases}

    The cosine tells directions, the smooth L1 the lengths that the cosine leaves open.

    Args:
        student: a map or a list of maps, one per level.
        teacher: the teacher's maps, likewise; they receive no gradient.
        cosine_weight: of the cosine distance.
        l1_weight: of the smooth L1 distance.
        beta: where it becomes linear.

    Shape:
        Maps: (N, C, H, W), of one shape on both sides. Output: a scalar.

    Raises:
        ValueError: numbers of maps or shapes differ, or an argument is out of range.

    References:
        AM-RADIO, arXiv 2312.06709, loss of the spatial features; NVIDIA TAO has it for its own distillations.

    Example:
        >>> east, north = torch.tensor([[[[4.0]], [[0.0]]]]), torch.tensor([[[[0.0]], [[4.0]]]])
        >>> round(am_radio_loss(east, north).item(), 4)  # 0.9 * 1 + 0.1 * 3
        1.2
    """
    check_at_least("cosine_weight", cosine_weight, 0)
    check_at_least("l1_weight", l1_weight, 0)
    check_positive("beta", beta)

    def compare(s: Tensor, t: Tensor) -> Tensor:
        difference = s - t
        distance = F.smooth_l1_loss(difference, torch.zeros_like(difference), beta=beta)
        return cosine_weight * cosine_distance(s, t) + l1_weight * distance

    return sum_levels(compare, student, teacher)


class AMRadioLoss(nn.Module):
    """`am_radio_loss` times `loss_weight`.

    Config::

        dict(type='freqkd.AMRadioLoss', cosine_weight=0.9, l1_weight=0.1, beta=2.0)

    Example:
        >>> loss = AMRadioLoss(cosine_weight=0.0, l1_weight=1.0, loss_weight=2.0)
        >>> loss(torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 3.0]]]])).item()  # 2 * (1 / 4 + 2) / 2
        2.25
    """

    def __init__(
        self, cosine_weight: float = 0.9, l1_weight: float = 0.1, beta: float = 2.0, loss_weight: float = 1.0
    ) -> None:
        super().__init__()
        check_at_least("cosine_weight", cosine_weight, 0)
        check_at_least("l1_weight", l1_weight, 0)
        check_positive("beta", beta)
        check_at_least("loss_weight", loss_weight, 0)
        self.options = dict(cosine_weight=cosine_weight, l1_weight=l1_weight, beta=beta)
        self.loss_weight = loss_weight

    def forward(self, student_feats: Maps, teacher_feats: Maps) -> Tensor:
        """Return the weighted loss."""
        return self.loss_weight * am_radio_loss(student_feats, teacher_feats, **self.options)
