"""Logarithm of the summed powers of the differences between batch-normalised maps."""

from __future__ import annotations

from torch import Tensor, nn

from freqkd.align import Maps
from freqkd.losses.levels import sum_levels
from freqkd.losses.standardization import standardized
from freqkd.utils.checks import check_at_least

__all__ = ["LogSumLoss", "log_sum_loss"]


def log_sum_loss(student: Maps, teacher: Maps, *, power: float = 4.0) -> Tensor:
    r"""Return the logarithm of the summed powers of the differences of batch-normalised maps, added over the levels.

    .. math:: \sum_l \log \Bigl(1 + \sum_{n, c, i} \lvert \hat s_{l n c i} - \hat t_{l n c i} \rvert^\alpha\Bigr),
        \quad \hat x_c = (x_c - \mu_c) / \sigma_c

    with mean and deviation of each channel over batch and positions. A large power looks at the largest differences, and the
    logarithm keeps the gradient from growing with them: a soft maximum.

    Args:
        student: a map or a list of maps, one per level.
        teacher: the teacher's maps, likewise; they receive no gradient.
        power: :math:`\alpha`, 1 to 8.

    Shape:
        Maps: (N, C, H, W), of one shape on both sides. Output: a scalar.

    Raises:
        ValueError: numbers of maps or shapes differ, or `power` is out of range.

    References:
        Miles and Mikolajczyk, arXiv 2303.11098 (AAAI 2024), with a projector before it: `ConvAlign`. Differs in the 1 beside
        the sum, without which equal maps give minus infinity; beside a sum over thousands of numbers it is nothing. Both
        networks are normalised by the batch at hand, as a batch norm without learned factors does in training.

    Example:
        >>> import torch
        >>> feat = torch.tensor([[[[0.0, 1.0]]]])
        >>> round(log_sum_loss(feat, -feat).item(), 2)  # normalised, (-1, 1) and (1, -1): log(1 + 2 * 2^4)
        3.5
    """
    check_at_least("power", power, 1, most=8)

    def compare(s: Tensor, t: Tensor) -> Tensor:
        difference = standardized(s, unbiased=False) - standardized(t, unbiased=False)
        return difference.abs().pow(power).sum().log1p()

    return sum_levels(compare, student, teacher)


class LogSumLoss(nn.Module):
    """`log_sum_loss` times `loss_weight`.

    Config::

        dict(type='freqkd.LogSumLoss', power=4.0)

    Example:
        >>> import torch
        >>> feat = torch.tensor([[[[0.0, 1.0]]]])
        >>> round(LogSumLoss(power=2.0, loss_weight=2.0)(feat, -feat).item(), 2)  # 2 * log(1 + 2 * 2^2)
        4.39
    """

    def __init__(self, power: float = 4.0, loss_weight: float = 1.0) -> None:
        super().__init__()
        check_at_least("power", power, 1, most=8)
        check_at_least("loss_weight", loss_weight, 0)
        self.power, self.loss_weight = power, loss_weight

    def forward(self, student_feats: Maps, teacher_feats: Maps) -> Tensor:
        """Return the weighted loss."""
        return self.loss_weight * log_sum_loss(student_feats, teacher_feats, power=self.power)
