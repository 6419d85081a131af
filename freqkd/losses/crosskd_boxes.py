"""CrossKD on heads that predict a box rather than its distribution (RetinaNet, ATSS). From the formula alone."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqkd.checks import check_at_least, check_choice
from freqkd.losses.bckd import box_iou_loss, quality_focal_loss
from freqkd.losses.divergence import check_focal_exponent
from freqkd.losses.localization import mean_by_weight, paired_rows
from freqkd.losses.logits import Logits


def crosskd_box_terms(
    cross_cls: Logits,
    cross_boxes: Logits,
    cls_teacher: Logits,
    boxes_teacher: Logits,
    label_weights: Tensor | None = None,
    cross_centerness: Logits | None = None,
    centerness_teacher: Logits | None = None,
    positive: Tensor | None = None,
    *,
    avg_factor: float | Tensor,
    beta: float = 1.0,
    kind: str = "giou",
    class_weight: float = 1.0,
    box_weight: float = 1.0,
    centerness_weight: float = 1.0,
) -> dict[str, Tensor]:
    """Return CrossKD's terms on decoded boxes, over all anchors of all levels.

    * loss_cls_kd: `class_weight * sum_p label_weight * quality focal(cross, teacher) / avg_factor`;
    * loss_reg_kd: `box_weight * sum_p w_p (1 - GIoU(cross box, teacher's box)) / avg_factor`, w the teacher's largest
      class probability where the label weight is not 0;
    * loss_ctr_kd, given centernesses: `centerness_weight * sum_p BCE(cross, sigma(teacher)) / avg_factor` over positives.

    Args:
        cross_cls: class logits of the cross head, (N, C, *S), or a list of levels; likewise the other maps.
        cross_boxes: its decoded boxes x1 y1 x2 y2, (N, 4, *S).
        cls_teacher: the teacher's class logits; no gradient.
        boxes_teacher: the teacher's decoded boxes; no gradient.
        label_weights: one for each position, in the order of labels (N, *S), levels one after the other.
        cross_centerness: centerness logits of the cross head, (N, 1, *S).
        centerness_teacher: the teacher's; no gradient.
        positive: whether a position is positive, in the order of `label_weights`; needed with centernesses.
        avg_factor: number of positives of the batch; counts as at least 1.
        beta: exponent of the modulating factor.
        kind: "giou" or "iou".
        class_weight: factor of loss_cls_kd.
        box_weight: factor of loss_reg_kd.
        centerness_weight: factor of loss_ctr_kd.

    Returns:
        `dict(loss_cls_kd=..., loss_reg_kd=...)` and `loss_ctr_kd` where centernesses are given, scalars.

    Raises:
        ValueError: for shapes or numbers of levels that differ; centernesses without `positive`.

    References:
        Wang et al., arXiv 2306.11369. The factor and divisor of the centerness are ours.

    >>> _ = torch.manual_seed(0)
    >>> cls, corner = torch.randn(2, 1, 3, 2, 2), torch.rand(2, 1, 2, 2, 2)
    >>> boxes = torch.cat([corner, corner + 1], 2)
    >>> terms = crosskd_box_terms(cls[0], boxes[0], cls[1], boxes[1], avg_factor=2.0)
    >>> print({name: round(value.item(), 4) for name, value in terms.items()})
    {'loss_cls_kd': 1.4277, 'loss_reg_kd': 1.158}
    """
    ours, theirs = paired_rows(cross_cls, cls_teacher, "class logits")
    boxes = paired_rows(cross_boxes, boxes_teacher, "boxes")
    seen = torch.ones_like(ours[:, 0]) if label_weights is None else label_weights.reshape(-1).to(ours.dtype)
    weight = torch.where(seen > 0, theirs.sigmoid().amax(1), 0.0)
    terms = {
        "loss_cls_kd": class_weight * quality_focal_loss(ours, theirs, beta=beta, weight=seen, avg_factor=avg_factor),
        "loss_reg_kd": box_weight * box_iou_loss(*boxes, weight, kind=kind, avg_factor=avg_factor),
    }
    if cross_centerness is None or centerness_teacher is None:
        return terms
    if positive is None:
        raise ValueError("positive must be given with centernesses, which count at positives alone, got None")
    near, far = paired_rows(cross_centerness, centerness_teacher, "centernesses")
    gap = F.binary_cross_entropy_with_logits(near, far.sigmoid(), reduction="none").squeeze(1)
    terms["loss_ctr_kd"] = centerness_weight * mean_by_weight(gap, positive, avg_factor)
    return terms


class CrossKDBoxLoss(nn.Module):
    """Sum CrossKD's terms on decoded boxes; see `crosskd_box_terms`.

    Config::

        loss=dict(type='freqkd.CrossKDBoxLoss', class_weight=1.0, box_weight=1.0)

    >>> cls, boxes = torch.zeros(1, 3, 2, 2), torch.tensor([0.0, 0, 1, 1]).reshape(1, 4, 1, 1).expand(1, 4, 2, 2)
    >>> CrossKDBoxLoss()(cls, boxes, cls, boxes, avg_factor=1.0).item()
    0.0
    """

    def __init__(
        self,
        beta: float = 1.0,
        kind: str = "giou",
        class_weight: float = 1.0,
        box_weight: float = 1.0,
        centerness_weight: float = 1.0,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_choice("kind", kind, ("giou", "iou"))
        weights = dict(class_weight=class_weight, box_weight=box_weight, centerness_weight=centerness_weight)
        check_focal_exponent("beta", beta)
        for name, value in {**weights, "loss_weight": loss_weight}.items():
            check_at_least(name, value, 0)
        self.options: dict[str, Any] = dict(beta=beta, kind=kind, **weights)
        self.loss_weight = loss_weight

    def forward(
        self,
        cross_cls: Logits,
        cross_boxes: Logits,
        cls_teacher: Logits,
        boxes_teacher: Logits,
        label_weights: Tensor | None = None,
        cross_centerness: Logits | None = None,
        centerness_teacher: Logits | None = None,
        positive: Tensor | None = None,
        *,
        avg_factor: float | Tensor,
    ) -> Tensor:
        maps = (cross_cls, cross_boxes, cls_teacher, boxes_teacher, label_weights, cross_centerness, centerness_teacher)
        terms = crosskd_box_terms(*maps, positive, avg_factor=avg_factor, **self.options)
        return self.loss_weight * torch.stack(list(terms.values())).sum()
