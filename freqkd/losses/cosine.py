"""Cosine distance of the channel vectors of feature maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from freqkd.align import Maps
from freqkd.losses.levels import sum_levels
from freqkd.utils.checks import check_at_least

__all__ = ["CosineLoss", "cosine_loss"]

SHORTEST = 1e-6  # length of a vector that has a direction


def unit_vectors(x: Tensor) -> Tensor:
    """Return the channel vectors (N, C, ...) at length 1; one shorter than 1e-6 gives 0, and has no gradient.

    >>> unit_vectors(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return torch.where(length > SHORTEST, x / length.clamp(min=SHORTEST), 0)


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return 1 - the mean cosine of the channel vectors of two maps, (N, C, H, W)."""
    return 1 - (unit_vectors(student) * unit_vectors(teacher)).sum(1).mean()


def cosine_loss(student: Maps, teacher: Maps) -> Tensor:
    r"""Return 1 - the mean cosine of the channel vectors of two maps, added over the levels.

    .. math:: \sum_l \bigl(1 - \mathrm{mean}_{n, i} \cos(s_{l n i}, t_{l n i})\bigr)

    Every position of an image counts alike, however large its vectors are. One that is 0 in either network counts 1, and has no
    gradient.

    Args:
        student: a map or a list of maps, one per level.
        teacher: the teacher's maps, likewise; they receive no gradient.

    Shape:
        Maps: (N, C, H, W), of one shape on both sides. Output: a scalar.

    Raises:
        ValueError: numbers of maps or shapes differ.

    References:
        The feature term of RT-DETRv4, arXiv 2510.25257, and of Ultralytics' distillation from DINOv3; in AM-RADIO, arXiv
        2312.06709, the larger part of `am_radio_loss`.

    Example:
        >>> east, north = torch.tensor([[[[2.0]], [[0.0]]]]), torch.tensor([[[[0.0]], [[3.0]]]])
        >>> cosine_loss(east, north).item(), cosine_loss(east, 5 * east).item()
        (1.0, 0.0)
    """
    return sum_levels(cosine_distance, student, teacher)


class CosineLoss(nn.Module):
    """`cosine_loss` times `loss_weight`.

    Config::

        dict(type='freqkd.CosineLoss', loss_weight=1.0)

    Example:
        >>> CosineLoss(loss_weight=2.0)(torch.tensor([[[[2.0]], [[0.0]]]]), torch.tensor([[[[0.0]], [[3.0]]]])).item()
        2.0
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        check_at_least("loss_weight", loss_weight, 0)
        self.loss_weight = loss_weight

    def forward(self, student_feats: Maps, teacher_feats: Maps) -> Tensor:
        """Return the weighted loss."""
        return self.loss_weight * cosine_loss(student_feats, teacher_feats)
