"""AT: attention transfer, the squared difference of normalised spatial attention maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqkd.align import RESIZE_CHOICES, Maps, resize_pair
from freqkd.losses.mse import squared_error
from freqkd.utils.checks import as_maps, check_at_least, check_choice, upcast

__all__ = ["ATLoss", "at_loss"]


def at_loss(student: Maps, teacher: Maps, *, resize: str | None = None) -> Tensor:
    r"""Return the mean squared difference of normalised attention maps, added over the levels.

    .. math:: \sum_l \frac{1}{N H W} \sum_{n, i} (q^s_{n i} - q^t_{n i})^2,\quad
        q_n = \frac{a_n}{\lVert a_n \rVert_2},\ a_{n i} = \frac{1}{C} \sum_c F_{n c i}^2

    The channels are summed away, so networks of different width need no align. Unchanged where an image's map of either
    network is multiplied by a number other than 0.

    Args:
        student: a map or a list of maps, one per level.
        teacher: the teacher's maps, likewise; they receive no gradient.
        resize: whose size both attention maps get where they differ (bilinear), "teacher" or "student"; None demands
            equal sizes.

    Shape:
        Maps: (N, C, H, W); C may differ. Output: a scalar.

    Raises:
        ValueError: numbers of maps, batch sizes, or (without `resize`) sizes differ; `resize` is unknown.

    References:
        Zagoruyko and Komodakis, arXiv 1612.03928, equation 2, with p = 2. Differs from the paper in the mean of the
        squares, which its program and mmrazor's have, for half of their norm; resizing is in the paper alone.

    Example:
        >>> student, teacher = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 3.0]], [[0.0, 4.0]]]])
        >>> at_loss(student, teacher).item()  # ((1 - 0)^2 + (0 - 1)^2) / 2
        1.0
    """
    losses = []
    for level, (student_feat, teacher_feat) in enumerate(as_maps(student, teacher)):
        with torch.autocast(student_feat.device.type, enabled=False):
            student_map, teacher_map = resize_pair(_energy(student_feat), _energy(teacher_feat.detach()), resize)
            if student_map.shape != teacher_map.shape:
                raise ValueError(
                    f"student and teacher features of level {level} must have the same N, H and W, got "
                    f"{tuple(student_feat.shape)} and {tuple(teacher_feat.shape)}; maps of two sizes need "
                    "resize='teacher' or 'student'"
                )
            losses.append(squared_error(F.normalize(student_map.flatten(1)), F.normalize(teacher_map.flatten(1))))
    return torch.stack(losses).sum()


def _energy(feat: Tensor) -> Tensor:
    return upcast(feat).square().mean(1, keepdim=True)


class ATLoss(nn.Module):
    """`at_loss` times `loss_weight`.

    Config::

        dict(type='freqkd.ATLoss', loss_weight=1000.0)

    Example:
        >>> ATLoss(loss_weight=2.0)(torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 3.0]]]])).item()
        2.0
    """

    def __init__(self, resize: str | None = None, loss_weight: float = 1.0) -> None:
        super().__init__()
        if resize is not None:
            check_choice("resize", resize, RESIZE_CHOICES)
        check_at_least("loss_weight", loss_weight, 0)
        self.resize = resize
        self.loss_weight = loss_weight

    def forward(self, student_feats: Maps, teacher_feats: Maps) -> Tensor:
        """Return the weighted loss."""
        return self.loss_weight * at_loss(student_feats, teacher_feats, resize=self.resize)
