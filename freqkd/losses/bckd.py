"""BCKD: class logits as binary maps, boxes by their overlap, on GFL heads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from freqkd.checks import check_at_least, check_choice, check_same_shape, upcast
from freqkd.losses.divergence import check_focal_exponent
from freqkd.losses.localization import mean_by_weight, paired_rows
from freqkd.losses.logits import LogitLoss, Logits


def quality_focal_loss(
    student: Logits,
    teacher: Logits,
    target: Logits | None = None,
    *,
    tau: float = 1.0,
    beta: float = 1.0,
    weight: Logits | None = None,
    avg_factor: float | Tensor | None = None,
    ignore_index: int | None = None,
) -> Tensor:
    """Distil a sigmoid head's classes: `sum_n w_n sum_c BCE(s, sigma(t)) |sigma(t) - sigma(s)|^beta / avg_factor`.

    Grid: fixed x quality_focal, activation sigmoid. The class term of BCKD and CrossKD, which divide by the number of
        positives.

    Args:
        student: logits (N, C), (N, C, *S), or a list of levels.
        teacher: the same shapes; no gradient.
        target: labels, only read for `ignore_index`; a sigmoid head's background is C.
        tau: temperature; the papers have none (1).
        beta: exponent of the modulating factor, 0 or at least 1.
        weight: of each position, (N,) or (N, *S).
        avg_factor: what the sum is divided by, counted as at least 1; None for the sum of the weights.
        ignore_index: label of positions that do not count.

    Returns:
        A scalar.

    Raises:
        ValueError: as `LogitLoss`.

    References:
        Yang et al., arXiv 2308.14286; Wang et al., arXiv 2306.11369. Differs from the programs in an epsilon of 1e-7
        beside their `avg_factor`.

    Config::

        loss=dict(type='freqkd.LogitLoss', softening=dict(type='fixed', tau=1.0), divergence='quality_focal',
        activation='sigmoid')

    >>> _ = torch.manual_seed(0)
    >>> print(f"{quality_focal_loss(torch.randn(2, 5), torch.randn(2, 5)).item():.4f}")
    0.7925
    """
    divergence = {"type": "quality_focal", "beta": beta}
    loss = LogitLoss({"type": "fixed", "tau": tau}, divergence, activation="sigmoid", ignore_index=ignore_index)
    result: Tensor = loss(student, teacher, target, weight=weight, avg_factor=avg_factor)
    return result


def distribution_boxes(reg: Tensor) -> Tensor:
    """Return the boxes that distributions (M, 4 * bins) expect, about the point they belong to, in units of the stride.

    The distances are expectations over the bins 0, 1, ...: (-left, -top, right, bottom), (M, 4). The place of the point
    drops out of every overlap of two boxes of the same point.

    >>> distribution_boxes(torch.zeros(1, 12))
    tensor([[-1., -1.,  1.,  1.]])
    """
    probability = reg.view(len(reg), 4, reg.shape[1] // 4).softmax(2)
    distances = (probability * torch.arange(probability.shape[2], device=reg.device, dtype=reg.dtype)).sum(2)
    return torch.cat([-distances[:, :2], distances[:, 2:]], 1)


def box_iou_loss(
    student_boxes: Tensor,
    teacher_boxes: Tensor,
    weight: Tensor | None = None,
    *,
    kind: str = "giou",
    avg_factor: float | Tensor | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """Distil decoded boxes: `sum_n w_n (1 - GIoU(student_n, teacher_n)) / avg_factor`, or with the plain IoU.

    For heads without distributions: CrossKD has GIoU with weight 1 on RetinaNet and ATSS, IoU with 0.75 on FCOS.

    Args:
        student_boxes: (M, 4), x1 y1 x2 y2, of the same positions as the teacher's.
        teacher_boxes: (M, 4); no gradient.
        weight: (M,), None for 1.
        kind: "giou" or "iou".
        avg_factor: as in `mean_by_weight`.
        eps: least area, so that empty boxes stay finite.

    Returns:
        A scalar.

    Raises:
        ValueError: for other shapes or another kind.

    References:
        Rezatofighi et al., arXiv 1902.09630 (GIoU).

    >>> box_iou_loss(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[0.0, 0, 2, 4]])).item()
    0.5
    """
    check_choice("kind", kind, ("giou", "iou"))
    check_same_shape(student_boxes, teacher_boxes, "boxes")
    if student_boxes.dim() != 2 or student_boxes.shape[1] != 4:
        raise ValueError(f"student_boxes must have the shape (M, 4), got {tuple(student_boxes.shape)}")
    a, b = upcast(student_boxes), upcast(teacher_boxes).detach()
    areas = [(x[:, 2] - x[:, 0]) * (x[:, 3] - x[:, 1]) for x in (a, b)]
    overlap = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    union = (areas[0] + areas[1] - overlap).clamp(min=eps)
    score = overlap / union
    if kind == "giou":
        hull = (
            (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).clamp(min=0).prod(1).clamp(min=eps)
        )
        score = score - (hull - union) / hull
    return mean_by_weight(1 - score, weight, avg_factor)


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
        ValueError: for shapes or numbers of levels that differ.

    References:
        Yang et al., arXiv 2308.14286. Differs from the released program in an epsilon of 1e-7 beside `avg_factor`, and
        in being computed on levels without a positive too.

    >>> _ = torch.manual_seed(0)
    >>> cls, reg = torch.randn(2, 1, 3, 2, 2), torch.randn(2, 1, 8, 2, 2)
    >>> terms = bckd_terms(cls[0], reg[0], cls[1], reg[1], avg_factor=2.0)
    >>> print({name: round(value.item(), 4) for name, value in terms.items()})
    {'loss_cls_kd': 1.4277, 'loss_loc_kd': 3.0125}
    """
    ours, theirs = paired_rows(cls_student, cls_teacher, "class logits")
    boxes = [distribution_boxes(x) for x in paired_rows(reg_student, reg_teacher, "box distributions")]
    if len(boxes[0]) != len(ours):
        raise ValueError(
            f"cls_student and reg_student must have the same positions, got {len(ours)} and {len(boxes[0])}"
        )
    seen = torch.ones_like(ours[:, 0]) if label_weights is None else label_weights.reshape(-1).to(ours.dtype)
    gap = (theirs.sigmoid() - ours.detach().sigmoid()).abs().amax(1)
    cls = quality_focal_loss(ours, theirs, beta=beta, weight=seen, avg_factor=avg_factor)
    return {
        "loss_cls_kd": class_weight * cls,
        "loss_loc_kd": box_weight * box_iou_loss(boxes[0], boxes[1], gap * seen, avg_factor=avg_factor),
    }


class BCKDLoss(nn.Module):
    """Sum BCKD's two terms; see `bckd_terms`.

    Config::

        loss=dict(type='freqkd.BCKDLoss', class_weight=1.0, box_weight=4.0)

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
