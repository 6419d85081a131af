"""PKD: Pearson correlation distillation, half the squared error of standardised channels."""

from __future__ import annotations

from torch import Tensor, nn

from freqkd.align import Maps, resize_pair
from freqkd.losses.levels import sum_levels
from freqkd.losses.mse import squared_error
from freqkd.losses.standardization import standardized
from freqkd.utils.checks import check_at_least, check_flag, check_same_shape

__all__ = ["PKDLoss", "pkd_loss"]


def pkd_loss(student: Maps, teacher: Maps, *, resize_student: bool = True) -> Tensor:
    r"""Return half the mean squared error of standardised channels, added over the levels: 1 - their correlation.

    .. math:: \sum_l \tfrac{1}{2} \mathrm{mean}\, (\hat s_l - \hat t_l)^2,\quad \hat x = (x - \mu) / (\sigma + 10^{-6})

    with mean and (unbiased) deviation of each channel over batch and positions. Unchanged by a shift, and by a scale
    above zero, of any channel of either network, so networks of different magnitude can be compared.

    Args:
        student: a map or a list of maps, one per level.
        teacher: the teacher's maps, likewise; they receive no gradient.
        resize_student: where sizes differ, resize the student's map to the teacher's size (bilinear); False: the other
            way round.

    Shape:
        Maps: (N, C, H, W), of one N and C on both sides. Output: a scalar.

    Raises:
        ValueError: numbers of maps, channels or batch sizes differ.

    References:
        PKD, arXiv 2207.02039. Differs from the program of mmrazor for a single position of a single image, whose
        unbiased deviation is not a number: there this gives 0.

    Example:
        >>> import torch
        >>> feat = torch.tensor([[[[1.0, 2.0], [3.0, 5.0]]]])
        >>> round(pkd_loss(feat, 3 * feat + 7).item(), 4), round(pkd_loss(feat, -feat).item(), 4)  # 2 * 3 / 4
        (0.0, 1.5)
    """

    def compare(s: Tensor, t: Tensor) -> Tensor:
        s, t = resize_pair(s, t, "teacher" if resize_student else "student")
        check_same_shape(s, t)
        return 0.5 * squared_error(standardized(s), standardized(t))

    return sum_levels(compare, student, teacher, same=False)


class PKDLoss(nn.Module):
    """`pkd_loss` times `loss_weight`.

    Config::

        dict(type='freqkd.PKDLoss', resize_student=True, loss_weight=6.0)

    Example:
        >>> import torch
        >>> feat = torch.tensor([[[[1.0, 2.0], [3.0, 5.0]]]])
        >>> round(PKDLoss(loss_weight=2.0)(feat, -feat).item(), 4)
        3.0
    """

    def __init__(self, resize_student: bool = True, loss_weight: float = 1.0) -> None:
        super().__init__()
        check_flag("resize_student", resize_student)
        self.resize_student = resize_student
        check_at_least("loss_weight", loss_weight, 0)
        self.loss_weight = loss_weight

    def forward(self, student_feats: Maps, teacher_feats: Maps) -> Tensor:
        """Return the weighted loss."""
        return self.loss_weight * pkd_loss(student_feats, teacher_feats, resize_student=self.resize_student)
