"""Mean squared error and L2 distance of feature maps."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqkd.align import Maps
from freqkd.losses.levels import sum_levels
from freqkd.utils.checks import (
    check_at_least,
    check_choice,
    check_flag,
    check_positive,
)

__all__ = ["L2Loss", "MSELoss", "l2_loss", "mse_loss"]

L2_CHOICES = ("batch", "mean", "norm")


def squared_error(student: Tensor, teacher: Tensor, reduction: str = "mean") -> Tensor:
    """Return `F.mse_loss`, in the order in which the student's map lies in memory.

    torch writes the gradient of `F.mse_loss` in contiguous order, whatever that of its input. With maps that are channels
    last, turning it back takes several times as long as the loss. Maps of two precisions are promoted here, because the
    gradient of `F.mse_loss` fails for them up to torch 2.11.
    """
    dtype = torch.promote_types(student.dtype, teacher.dtype)
    student, teacher = student.to(dtype), teacher.to(dtype)
    if student.dim() == 4 and student.is_contiguous(memory_format=torch.channels_last):
        student, teacher = student.permute(0, 2, 3, 1), teacher.permute(0, 2, 3, 1)
    return F.mse_loss(student, teacher, reduction=reduction)


def mse_loss(student: Maps, teacher: Maps) -> Tensor:
    r"""Return the mean squared error of feature maps, added over the levels.

    .. math:: \sum_l \mathrm{mean}\, (s_l - t_l)^2

    The Haar transform is orthonormal, so this is also the mean squared error of all subbands, unmasked.

    Args:
        student: a map or a list of maps, one per level.
        teacher: the teacher's maps, likewise; they receive no gradient.

    Shape:
        Maps: (N, C, H, W), of one shape on both sides. Output: a scalar.

    Raises:
        ValueError: numbers of maps or shapes differ.

    References:
        The companion term of the released program of FreeKD, arXiv 2311.12079 (weight 5 there for RetinaNet).

    Example:
        >>> mse_loss(torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 3.0]]]])).item()
        5.0
    """
    return sum_levels(squared_error, student, teacher)


class MSELoss(nn.Module):
    """`mse_loss` times `loss_weight`.

    Config::

        dict(type='freqkd.MSELoss', loss_weight=5.0)

    Example:
        >>> MSELoss(loss_weight=2.0)(torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 3.0]]]])).item()
        10.0
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        check_at_least("loss_weight", loss_weight, 0)
        self.loss_weight = loss_weight

    def forward(self, student_feats: Maps, teacher_feats: Maps) -> Tensor:
        """Return the weighted loss."""
        return self.loss_weight * mse_loss(student_feats, teacher_feats)


def l2_loss(
    student: Maps, teacher: Maps, *, normalize: bool = True, mult: float = 1.0, reduction: str = "batch"
) -> Tensor:
    r"""Return the L2 distance of FitNets, added over the levels.

    Args:
        student: a map or a list of maps, one per level.
        teacher: the teacher's maps, likewise; they receive no gradient.
        normalize: scale each image's map to the L2 norm `mult` first.
        mult: the norm that `normalize` scales to.
        reduction: what becomes of the squares: "batch", their sum over N; "mean", their mean over all numbers;
            "norm", the root of their sum.

    Shape:
        Maps: (N, C, H, W), of one shape on both sides. Output: a scalar.

    Raises:
        ValueError: numbers of maps or shapes differ, or `reduction` is unknown.

    References:
        FitNets, arXiv 1412.6550, equation 3. Differs from it by the factor 1/2, which mmrazor's program leaves out,
        too.

    Example:
        >>> l2_loss(torch.zeros(1, 1, 1, 2), torch.tensor([[[[3.0, 4.0]]]]), normalize=False, reduction="norm").item()
        5.0
    """
    check_choice("reduction", reduction, L2_CHOICES)

    def compare(s: Tensor, t: Tensor) -> Tensor:
        if normalize:
            s, t = (mult * F.normalize(x.flatten(1)) for x in (s, t))
        if reduction == "norm":
            return cast(Tensor, torch.linalg.vector_norm(s - t))
        return squared_error(s, t) if reduction == "mean" else squared_error(s, t, "sum") / len(s)

    return sum_levels(compare, student, teacher)


class L2Loss(nn.Module):
    """`l2_loss` times `loss_weight`.

    Config::

        dict(type='freqkd.L2Loss', normalize=True, reduction='batch', loss_weight=1.0)

    Example:
        >>> L2Loss(loss_weight=0.5)(torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[[-3.0, -4.0]]]])).item()
        2.0
    """

    def __init__(
        self, normalize: bool = True, mult: float = 1.0, reduction: str = "batch", loss_weight: float = 1.0
    ) -> None:
        super().__init__()
        check_choice("reduction", reduction, L2_CHOICES)
        check_flag("normalize", normalize)
        check_positive("mult", mult)
        self.normalize = normalize
        self.mult = mult
        self.reduction = reduction
        check_at_least("loss_weight", loss_weight, 0)
        self.loss_weight = loss_weight

    def forward(self, student_feats: Maps, teacher_feats: Maps) -> Tensor:
        """Return the weighted loss."""
        loss = l2_loss(student_feats, teacher_feats, normalize=self.normalize, mult=self.mult, reduction=self.reduction)
        return self.loss_weight * loss
