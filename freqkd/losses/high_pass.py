"""Squared error of what a local mean leaves of the difference: a high-pass filter without a wavelet."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from freqkd.align import Maps
from freqkd.losses.levels import sum_levels
from freqkd.utils.checks import WIDEST, check_at_least, check_whole

__all__ = ["HighPassLoss", "high_pass_loss"]


def high_pass_loss(student: Maps, teacher: Maps, *, window: int = 9) -> Tensor:
    r"""Return the mean squared error of two maps without their local means, added over the levels.

    .. math:: \sum_l \mathrm{mean}\, (d_l - \bar d_l)^2,\quad d_l = s_l - t_l

    with the mean of d over the window around each position. A constant difference gives 0, as it has no details. `freekd_loss`
    with `norm="l2"` and `band_weights="details"` is the same with the means of fixed blocks of `2**depth` positions in place
    of the window's.

    Args:
        student: a map or a list of maps, one per level.
        teacher: the teacher's maps, likewise; they receive no gradient.
        window: side of the window, an odd number of positions; at the border, the mean is over the positions that are there.

    Shape:
        Maps: (N, C, H, W), of one shape on both sides. Output: a scalar.

    Raises:
        ValueError: numbers of maps or shapes differ, or `window` is even or below 1.

    References:
        An addition of this package, to find out whether the details need a wavelet.

    Example:
        >>> import torch
        >>> high_pass_loss(torch.zeros(1, 1, 1, 3), torch.tensor([[[[0.0, 3.0, 0.0]]]]), window=3).item()  # 1.5, 2, 1.5
        2.8333332538604736
    """
    _check_window(window)

    def compare(s: Tensor, t: Tensor) -> Tensor:
        difference = s - t
        around = F.avg_pool2d(difference, window, 1, window // 2, count_include_pad=False)
        return (difference - around).square().mean()

    return sum_levels(compare, student, teacher)


def _check_window(window: int) -> None:
    check_whole("window", window, 1, most=WIDEST)
    if window % 2 == 0:
        raise ValueError(f"window must be odd, so that it has a middle, got {window}")


class HighPassLoss(nn.Module):
    """`high_pass_loss` times `loss_weight`.

    Config::

        dict(type='freqkd.HighPassLoss', window=9)

    Example:
        >>> import torch
        >>> HighPassLoss(window=3, loss_weight=6.0)(torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 3.0]]]])).item()
        6.0
    """

    def __init__(self, window: int = 9, loss_weight: float = 1.0) -> None:
        super().__init__()
        _check_window(window)
        check_at_least("loss_weight", loss_weight, 0)
        self.window, self.loss_weight = window, loss_weight

    def forward(self, student_feats: Maps, teacher_feats: Maps) -> Tensor:
        """Return the weighted loss."""
        return self.loss_weight * high_pass_loss(student_feats, teacher_feats, window=self.window)
