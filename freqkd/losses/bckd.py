"""BCKD: binary distillation of class logits, and distillation of boxes by their overlap, on GFL heads."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from freqkd.losses.boxes import box_iou_loss, distribution_boxes, paired_rows, quality_focal_loss, row_weights
from freqkd.losses.logits.divergence import check_focal_exponent
from freqkd.losses.logits.loss import Logits
from freqkd.utils.checks import check_at_least

__all__ = ["BCKDLoss", "bckd_terms"]


def bckd_terms(
    cls_student: Logits,
    reg_student: Logits,
    cls_teacher: Logits,
    reg_teacher: Logits,
    label_weights: Tensor | None = None,
    *,
    avg_factor: float | Tensor,
    beta: float = 1.0,
    class_weight: float = 1.0,
    box_weight: float = 4.0,
) -> dict[str, Tensor]:
    """Return BCKD's terms on a GFL head, over all positions of all levels.

    * loss_cls_kd: `class_weight` times `quality_focal_loss`;
    * loss_loc_kd: `box_weight * sum_p max_c |sigma(t) - sigma(s)| (a constant) label_weight (1 - GIoU) / avg_factor`,
      between the boxes that the distributions expect.

    Args:
        cls_student: class logits (N, C, H, W), or a list of levels; likewise the other maps.
        reg_student: box distributions (N, 4 * bins, H, W).
        cls_teacher: as `cls_student`; no gradient.
        reg_teacher: as `reg_student`; no gradient.
        label_weights: one for each position, in the order of labels (N, H, W), levels one after the other.
        avg_factor: number of positives of the batch; counts as at least 1.
        beta: exponent of the modulating factor.
        class_weight: factor of loss_cls_kd.
        box_weight: factor of loss_loc_kd.

    Returns:
        `dict(loss_cls_kd=..., loss_loc_kd=...)`, scalars.

    Raises:
        ValueError: for shapes or numbers of levels that differ, box channels that are not a multiple of 4, another number of
            label weights.

    References:
        Yang et al., arXiv 2308.14286. Differs from the released program in an epsilon of 1e-7 added to `avg_factor`,
        and in being computed on levels without a positive too.

    >>> import torch; _ = torch.manual_seed(0)
    >>> cls, reg = torch.randn(2, 1, 3, 2, 2), torch.randn(2, 1, 8, 2, 2)
    >>> terms = bckd_terms(cls[0], reg[0], cls[1], reg[1], avg_factor=2.0)
    >>> print({name: round(value.item(), 4) for name, value in terms.items()})
    {'loss_cls_kd': 1.4277, 'loss_loc_kd': 3.0125}
    """
    student, teacher = paired_rows(cls_student, cls_teacher, "class logits")
    boxes = [distribution_boxes(x) for x in paired_rows(reg_student, reg_teacher, "box distributions")]
    if len(boxes[0]) != len(student):
        raise ValueError(
            f"cls_student and reg_student must have the same positions, got {len(student)} and {len(boxes[0])}"
        )
    seen = row_weights(student, label_weights)
    gap = (teacher.sigmoid() - student.detach().sigmoid()).abs().amax(1)
    cls = quality_focal_loss(student, teacher, beta=beta, weight=seen, avg_factor=avg_factor)
    return {
        "loss_cls_kd": class_weight * cls,
        "loss_loc_kd": box_weight * box_iou_loss(boxes[0], boxes[1], gap * seen, avg_factor=avg_factor),
    }


class BCKDLoss(nn.Module):
    """Sum BCKD's two terms; see `bckd_terms`.

    Config::

        loss=dict(type='freqkd.BCKDLoss', class_weight=1.0, box_weight=4.0)

    >>> import torch
    >>> cls, reg = torch.zeros(1, 3, 2, 2), torch.zeros(1, 8, 2, 2)
    >>> BCKDLoss()(cls, reg, cls, reg, avg_factor=1.0).item()
    0.0
    """

    def __init__(
        self, beta: float = 1.0, class_weight: float = 1.0, box_weight: float = 4.0, loss_weight: float = 1.0
    ) -> None:
        super().__init__()
        check_focal_exponent("beta", beta)
        for name, value in (("class_weight", class_weight), ("box_weight", box_weight), ("loss_weight", loss_weight)):
            check_at_least(name, value, 0)
        self.options: dict[str, Any] = {"beta": beta, "class_weight": class_weight, "box_weight": box_weight}
        self.loss_weight = loss_weight

    def forward(
        self,
        cls_student: Logits,
        reg_student: Logits,
        cls_teacher: Logits,
        reg_teacher: Logits,
        label_weights: Tensor | None = None,
        *,
        avg_factor: float | Tensor,
    ) -> Tensor:
        maps = (cls_student, reg_student, cls_teacher, reg_teacher, label_weights)
        terms = bckd_terms(*maps, avg_factor=avg_factor, **self.options)
        return self.loss_weight * (terms["loss_cls_kd"] + terms["loss_loc_kd"])
