"""Mean squared error with a weight for every position, such as the teacher's class score."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqkd.align import Maps
from freqkd.utils.checks import as_maps, check_at_least, check_map, check_same_shape, upcast

__all__ = ["WeightedMSELoss", "weighted_mse_loss"]


def weighted_mse_loss(student: Maps, teacher: Maps, weight_maps: Maps) -> Tensor:
    r"""Return the weighted mean of the squared errors of the positions, added over the levels.

    .. math:: \sum_l \frac{\sum_{n, i} w_{l n i} \sum_c (s_{l n c i} - t_{l n c i})^2}{C \sum_{n, i} w_{l n i}}

    With equal weights it is `mse_loss`, and a factor on the weights changes nothing. Where all are 0, so is the loss.

    Args:
        student: a map or a list of maps, one per level.
        teacher: the teacher's maps, likewise; they receive no gradient.
        weight_maps: w, at least 0, likewise; they receive no gradient. Weights of another size are brought to the map's by the
            means of its cells.

    Shape:
        Maps: (N, C, H, W), of one shape on both sides. weight_maps: (N, 1, H', W'). Output: a scalar.

    Raises:
        ValueError: numbers of maps or shapes differ.

    References:
        The distillation of Ultralytics' detectors, as its guide describes it, with w the teacher's largest class probability at
        the position, which the adapter `ScoreMaps` gives; the divisor is this package's.

    Example:
        >>> teacher, weights = torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[[0.75, 0.25]]]])
        >>> weighted_mse_loss(torch.zeros(1, 1, 1, 2), teacher, weights).item()  # 0.75 * 1 + 0.25 * 9
        3.0
    """
    pairs = as_maps(student, teacher)
    weights = [weight_maps] if isinstance(weight_maps, Tensor) else list(weight_maps)
    if len(weights) != len(pairs):
        raise ValueError(f"weight_maps must be one for each of the {len(pairs)} maps, got {len(weights)}")
    losses = []
    for level, ((student_feat, teacher_feat), weight) in enumerate(zip(pairs, weights)):
        check_same_shape(student_feat, teacher_feat, f"features of level {level}")
        check_map(f"weight_maps[{level}]", weight, 1)
        if len(weight) != len(student_feat):
            raise ValueError(
                f"weight_maps[{level}] must have the batch size of the features, {len(student_feat)}, got {len(weight)}"
            )
        with torch.autocast(student_feat.device.type, enabled=False):
            height, width = student_feat.shape[-2:]
            share = F.adaptive_avg_pool2d(upcast(weight.detach()), (height, width))
            errors = (upcast(student_feat) - upcast(teacher_feat.detach())).square().mean(1, keepdim=True)
            losses.append((share * errors).sum() / share.sum().clamp(min=torch.finfo(share.dtype).tiny))
    return torch.stack(losses).sum()


class WeightedMSELoss(nn.Module):
    """`weighted_mse_loss` times `loss_weight`.

    Config::

        dict(type='freqkd.DistillTerm', student_tap='neck',
             adapter=dict(type='freqkd.ScoreMaps', head='bbox_head.retina_cls'),
             loss=dict(type='freqkd.WeightedMSELoss'), weight=dict(ratio=1.0))

    Example:
        >>> loss = WeightedMSELoss(loss_weight=2.0)
        >>> loss(torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[[0.0, 0.1]]]])).item()
        18.0
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        check_at_least("loss_weight", loss_weight, 0)
        self.loss_weight = loss_weight

    def forward(self, student_feats: Maps, teacher_feats: Maps, weight_maps: Maps | None = None) -> Tensor:
        """Return the weighted loss.

        Raises:
            ValueError: `weight_maps` are missing, or see `weighted_mse_loss`.
        """
        if weight_maps is None:
            raise ValueError(
                "weight_maps must be given, got None; add adapter=dict(type='freqkd.ScoreMaps', head='bbox_head.retina_cls') "
                "to the term, with the path of the network's class predictor, or take MSELoss"
            )
        return self.loss_weight * weighted_mse_loss(student_feats, teacher_feats, weight_maps)
