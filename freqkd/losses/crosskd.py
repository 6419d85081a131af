"""CrossKD: distillation of cross-head predictions, which the teacher's head makes of the student's features."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqkd.losses.boxes import box_iou_loss, mean_by_weight, paired_rows, quality_focal_loss, row_weights
from freqkd.losses.ld import ld_loss
from freqkd.losses.logits.divergence import check_focal_exponent
from freqkd.losses.logits.loss import Logits
from freqkd.utils.checks import check_at_least, check_choice, check_map, check_positive, upcast

__all__ = ["CrossKDBoxLoss", "CrossKDLoss", "align_statistics", "crosskd_box_terms", "crosskd_terms"]


def align_statistics(student_feat: Tensor, teacher_feat: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Give each channel of the student's feature the mean and deviation that the teacher's has over the batch.

    `(f - mean_s) / (std_s + eps) * std_t + mean_t`, over batch and positions, deviations unbiased. What the teacher's
    remaining convolutions then see has the range they know; its activation comes after this.

    Args:
        student_feat: head feature before the activation, (N, C, H, W).
        teacher_feat: the teacher's at the same depth, (N', C, H', W'); no gradient.
        eps: added to the student's deviation; a constant channel becomes the teacher's mean.

    Returns:
        The student's feature, (N, C, H, W), in the student's type.

    Raises:
        ValueError: for features that are not maps or differ in channels.

    References:
        Wang et al., arXiv 2306.11369, and its released configuration.

    >>> _ = torch.manual_seed(0)
    >>> aligned = align_statistics(torch.randn(2, 3, 4, 4), 5 + 2 * torch.randn(2, 3, 4, 4))
    >>> print(f"{aligned.mean().item():.1f} {aligned.std().item():.1f}")
    4.9 1.8
    """
    check_map("student_feat", student_feat)
    check_map("teacher_feat", teacher_feat, channels=student_feat.shape[1])
    check_at_least("eps", eps, 0)
    student, teacher = upcast(student_feat), upcast(teacher_feat).detach()
    (mean_s, std_s), (mean_t, std_t) = [_moments(x) for x in (student, teacher)]
    return ((student - mean_s) / (std_s + eps) * std_t + mean_t).to(student_feat.dtype)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    mean = x.mean((0, 2, 3), keepdim=True)
    if x[:, 0].numel() < 2:  # one position: no deviation
        return mean, torch.zeros_like(mean)
    return mean, x.std((0, 2, 3), keepdim=True)


def crosskd_terms(
    cross_cls: Logits,
    cross_reg: Logits,
    cls_teacher: Logits,
    reg_teacher: Logits,
    label_weights: Tensor | None = None,
    *,
    avg_factor: float | Tensor,
    beta: float = 1.0,
    tau: float = 1.0,
    class_weight: float = 1.0,
    box_weight: float = 4.0,
) -> dict[str, Tensor]:
    """Return CrossKD's terms on a GFL head, over all positions of all levels.

    * loss_cls_kd: `class_weight * sum_p label_weight * quality focal(cross, teacher) / avg_factor`;
    * loss_reg_kd: `box_weight * sum_p w_p (1 / 4) sum_sides tau^2 KL / sum_p w_p`, summed over the bins, w the
      teacher's largest class probability where the label weight is not 0.

    Heads without distributions: `quality_focal_loss` and `box_iou_loss`.

    Args:
        cross_cls: class logits of the cross head, (N, C, H, W), or a list of levels; likewise the other maps.
        cross_reg: its box distributions (N, 4 * bins, H, W).
        cls_teacher: the teacher's class logits; no gradient.
        reg_teacher: the teacher's box distributions; no gradient.
        label_weights: one for each position, in the order of labels (N, H, W), levels one after the other.
        avg_factor: number of positives of the batch; counts as at least 1.
        beta: exponent of the modulating factor.
        tau: temperature of the boxes.
        class_weight: factor of loss_cls_kd.
        box_weight: factor of loss_reg_kd.

    Returns:
        `dict(loss_cls_kd=..., loss_reg_kd=...)`, scalars; 0 where no position has weight (the released program: nan).

    Raises:
        ValueError: for shapes or numbers of levels that differ, another number of label weights.

    References:
        Wang et al., arXiv 2306.11369. Differs from the released program in an epsilon of 1e-7 added to `avg_factor`.

    >>> _ = torch.manual_seed(0)
    >>> cls, reg = torch.randn(2, 1, 3, 2, 2), torch.randn(2, 1, 8, 2, 2)
    >>> terms = crosskd_terms(cls[0], reg[0], cls[1], reg[1], avg_factor=2.0)
    >>> print({name: round(value.item(), 4) for name, value in terms.items()})
    {'loss_cls_kd': 1.4277, 'loss_reg_kd': 1.3219}
    """
    student, teacher = paired_rows(cross_cls, cls_teacher, "class logits")
    seen = row_weights(student, label_weights)
    weight = torch.where(seen > 0, teacher.sigmoid().amax(1), 0.0)
    cls = quality_focal_loss(student, teacher, beta=beta, weight=seen, avg_factor=avg_factor)
    return {
        "loss_cls_kd": class_weight * cls,
        "loss_reg_kd": box_weight * ld_loss(cross_reg, reg_teacher, weight, tau=tau, bins="sum"),
    }


class CrossKDLoss(nn.Module):
    """Sum CrossKD's two terms; see `crosskd_terms`.

    Config::

        loss=dict(type='freqkd.CrossKDLoss', class_weight=1.0, box_weight=4.0)

    >>> cls, reg = torch.zeros(1, 3, 2, 2), torch.zeros(1, 8, 2, 2)
    >>> CrossKDLoss()(cls, reg, cls, reg, avg_factor=1.0).item()
    0.0
    """

    def __init__(
        self,
        beta: float = 1.0,
        tau: float = 1.0,
        class_weight: float = 1.0,
        box_weight: float = 4.0,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_focal_exponent("beta", beta)
        check_positive("tau", tau)
        for name, value in (("class_weight", class_weight), ("box_weight", box_weight), ("loss_weight", loss_weight)):
            check_at_least(name, value, 0)
        self.options: dict[str, Any] = {
            "beta": beta,
            "tau": tau,
            "class_weight": class_weight,
            "box_weight": box_weight,
        }
        self.loss_weight = loss_weight

    def forward(
        self,
        cross_cls: Logits,
        cross_reg: Logits,
        cls_teacher: Logits,
        reg_teacher: Logits,
        label_weights: Tensor | None = None,
        *,
        avg_factor: float | Tensor,
    ) -> Tensor:
        maps = (cross_cls, cross_reg, cls_teacher, reg_teacher, label_weights)
        terms = crosskd_terms(*maps, avg_factor=avg_factor, **self.options)
        return self.loss_weight * (terms["loss_cls_kd"] + terms["loss_reg_kd"])


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
        ValueError: for shapes or numbers of levels that differ, another number of label weights; centernesses without
            `positive`.

    References:
        Wang et al., arXiv 2306.11369. The factor and divisor of the centerness are those of this package.

    >>> _ = torch.manual_seed(0)
    >>> cls, corner = torch.randn(2, 1, 3, 2, 2), torch.rand(2, 1, 2, 2, 2)
    >>> boxes = torch.cat([corner, corner + 1], 2)
    >>> terms = crosskd_box_terms(cls[0], boxes[0], cls[1], boxes[1], avg_factor=2.0)
    >>> print({name: round(value.item(), 4) for name, value in terms.items()})
    {'loss_cls_kd': 1.4277, 'loss_reg_kd': 1.158}
    """
    student, teacher = paired_rows(cross_cls, cls_teacher, "class logits")
    boxes = paired_rows(cross_boxes, boxes_teacher, "boxes")
    seen = row_weights(student, label_weights)
    weight = torch.where(seen > 0, teacher.sigmoid().amax(1), 0.0)
    terms = {
        "loss_cls_kd": class_weight
        * quality_focal_loss(student, teacher, beta=beta, weight=seen, avg_factor=avg_factor),
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
