"""Mean squared error of maps that are normalised channel by channel in every image."""

from __future__ import annotations

from torch import Tensor, nn

from freqkd.align import Maps
from freqkd.losses.levels import sum_levels
from freqkd.losses.mse import squared_error
from freqkd.losses.standardization import standardized
from freqkd.utils.checks import check_at_least

__all__ = ["InstanceNormMSELoss", "instance_norm_mse_loss"]


def instance_norm_mse_loss(student: Maps, teacher: Maps) -> Tensor:
    r"""Return the mean squared error of instance-normalised maps, added over the levels.

    .. math:: \sum_l \mathrm{mean}\, (\hat s_l - \hat t_l)^2,\quad \hat x_{n c} = (x_{n c} - \mu_{n c}) / \sigma_{n c}

    with mean and deviation of each channel of each image over its positions. This is the mean of :math:`2 (1 - r)`, with r the
    Pearson correlation of a channel of both networks in an image: PKD with the statistics of an image instead of the batch's.
    A channel that is constant in an image counts 1, or 0 where it is in both networks.

    Args:
        student: a map or a list of maps, one per level.
        teacher: the teacher's maps, likewise; they receive no gradient.

    Shape:
        Maps: (N, C, H, W), of one shape on both sides. Output: a scalar.

    Raises:
        ValueError: numbers of maps or shapes differ.

    References:
        The base of CanKD (WACV 2026), without its attention and its factor 1/2. Differs from torch's instance norm in the
        small number that keeps the divisor above 0: 1e-6 beside the deviation, as in PKD.

    Example:
        >>> import torch
        >>> feat = torch.tensor([[[[1.0, 2.0], [3.0, 5.0]]]])
        >>> round(instance_norm_mse_loss(feat, 3 * feat + 7).item(), 4), round(instance_norm_mse_loss(feat, -feat).item(), 4)
        (0.0, 4.0)
    """

    def compare(s: Tensor, t: Tensor) -> Tensor:
        return squared_error(_normalized(s), _normalized(t))

    return sum_levels(compare, student, teacher)


def _normalized(x: Tensor) -> Tensor:
    return standardized(x.reshape(1, -1, *x.shape[2:]), unbiased=False)


class InstanceNormMSELoss(nn.Module):
    """`instance_norm_mse_loss` times `loss_weight`.

    Config::

        dict(type='freqkd.InstanceNormMSELoss', loss_weight=1.0)

    Example:
        >>> import torch
        >>> feat = torch.tensor([[[[1.0, 2.0], [3.0, 5.0]]]])
        >>> round(InstanceNormMSELoss(loss_weight=2.0)(feat, -feat).item(), 4)
        8.0
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        check_at_least("loss_weight", loss_weight, 0)
        self.loss_weight = loss_weight

    def forward(self, student_feats: Maps, teacher_feats: Maps) -> Tensor:
        """Return the weighted loss."""
        return self.loss_weight * instance_norm_mse_loss(student_feats, teacher_feats)
