"""Shared parts of the losses of detection heads: weighted means, rows of maps, quality focal loss, decoded boxes, IoU."""

from __future__ import annotations

import torch
from torch import Tensor

from freqkd.losses.logits.loss import SAME_HEADS, LogitLoss, Logits, flatten_positions
from freqkd.utils.checks import check_choice, check_pyramids, check_same_shape, upcast

__all__ = ["box_iou_loss", "distribution_boxes", "quality_focal_loss"]


def one_each(name: str, values: Tensor, rows: Tensor) -> Tensor:
    """Flatten what must have one entry for each of the rows (M, ...).

    >>> one_each("labels", torch.tensor([[0, 1]]), torch.zeros(3, 4))
    Traceback (most recent call last):
    ...
    ValueError: labels must have one entry for each of the 3 positions, got 2
    """
    if values.numel() != len(rows):
        raise ValueError(f"{name} must have one entry for each of the {len(rows)} positions, got {values.numel()}")
    return values.reshape(-1)


def row_weights(rows: Tensor, label_weights: Tensor | None) -> Tensor:
    """Return the label weights as one number for each of the rows (M, C), of their type; 1 without label weights."""
    if label_weights is None:
        return torch.ones_like(rows[:, 0])
    return one_each("label_weights", label_weights, rows).to(rows.dtype)


def mean_by_weight(values: Tensor, weight: Tensor | None, avg_factor: float | Tensor | None) -> Tensor:
    """Return `sum(weight * values) / avg_factor`: by default the weights' sum; what is given counts as at least 1.

    Without any weight the result is 0, where the released programs divide by zero.

    >>> mean_by_weight(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 0.0]), None)
    tensor(1.)
    """
    weight = torch.ones_like(values) if weight is None else one_each("weight", weight.detach(), values).to(values.dtype)
    total, known = (weight * values).sum(), weight.sum()
    if avg_factor is None:
        return total / torch.where(known > 0, known, 1.0)
    return total / torch.as_tensor(avg_factor, dtype=total.dtype, device=total.device).clamp(min=1.0)


def paired_rows(student: Logits, teacher: Logits, what: str) -> tuple[Tensor, Tensor]:
    """Flatten maps (N, C, *S), rows (M, C) or lists of these to rows, in float32 at least, the teacher's detached."""
    students = [student] if isinstance(student, Tensor) else list(student)
    teachers = [teacher] if isinstance(teacher, Tensor) else list(teacher)
    check_pyramids(students, teachers)
    for s, t in zip(students, teachers):
        check_same_shape(s, t, what, SAME_HEADS)
    rows = [upcast(torch.cat([flatten_positions(x) for x in maps])) for maps in (students, teachers)]
    return rows[0], rows[1].detach()


def split_sides(rows: Tensor) -> Tensor:
    """View rows (M, 4 * bins) as the distributions of a box's four sides, (M, 4, bins)."""
    if rows.shape[1] % 4:
        raise ValueError(f"box distributions must have a multiple of 4 channels, got {rows.shape[1]}")
    return rows.view(len(rows), 4, rows.shape[1] // 4)


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
        added to their `avg_factor`.

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

    Raises:
        ValueError: for channels that are not a multiple of 4.

    >>> distribution_boxes(torch.zeros(1, 12))
    tensor([[-1., -1.,  1.,  1.]])
    """
    probability = split_sides(reg).softmax(2)
    distances = (probability * torch.arange(probability.shape[2], device=reg.device, dtype=reg.dtype)).sum(2)
    return torch.cat([-distances[:, :2], distances[:, 2:]], 1)


def box_iou(a: Tensor, b: Tensor, *, kind: str = "giou", eps: float = 1e-6) -> Tensor:
    """Return the GIoU or IoU of pairs of boxes: `IoU = overlap / union`, `GIoU = IoU - (hull - union) / hull`.

    The hull is the least box around both.

    Args:
        a: boxes (..., 4), x1 y1 x2 y2.
        b: boxes (..., 4), of a shape that broadcasts with `a`'s.
        kind: "giou" or "iou".
        eps: least area, so that empty boxes stay finite.

    Returns:
        (...), the broadcast shape.

    References:
        Rezatofighi et al., arXiv 1902.09630 (GIoU).

    >>> a, b = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[0.0, 0, 2, 4], [2, 2, 4, 4]])
    >>> box_iou(a[:, None], b)  # every box of one list with every box of the other
    tensor([[ 0.5000, -0.5000]])
    """
    areas = [(x[..., 2] - x[..., 0]) * (x[..., 3] - x[..., 1]) for x in (a, b)]
    overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    union = (areas[0] + areas[1] - overlap).clamp(min=eps)
    if kind == "iou":
        return overlap / union
    hull = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    area = hull.clamp(min=0).prod(-1).clamp(min=eps)
    return overlap / union - (area - union) / area


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
    check_same_shape(student_boxes, teacher_boxes, "boxes", SAME_HEADS)
    if student_boxes.dim() != 2 or student_boxes.shape[1] != 4:
        raise ValueError(f"student_boxes must have the shape (M, 4), got {tuple(student_boxes.shape)}")
    overlap = box_iou(upcast(student_boxes), upcast(teacher_boxes).detach(), kind=kind, eps=eps)
    return mean_by_weight(1 - overlap, weight, avg_factor)
