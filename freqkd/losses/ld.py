"""LD: distillation of box distributions on GFL heads, and its valuable localization region."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqkd.losses.boxes import mean_by_weight, one_each, paired_rows, row_weights, split_sides
from freqkd.losses.logits.loss import Logits
from freqkd.utils.checks import check_at_least, check_choice, check_positive, check_pyramids

__all__ = ["LDLoss", "ld_loss", "ld_terms", "valuable_region"]


def ld_loss(
    reg_student: Logits,
    reg_teacher: Logits,
    weight: Tensor | None = None,
    *,
    tau: float = 10.0,
    bins: str = "mean",
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    """Distil the distributions of a box's four distances.

    `sum_p w_p (1 / 4) sum_sides tau^2 KL_b(softmax(t / tau) || softmax(s / tau)) / avg_factor`, KL_b summed over the
    bins, or divided by their number (`bins="mean"`, the released program of LD; CrossKD has "sum").

    Args:
        reg_student: maps (N, 4 * bins, H, W), rows (M, 4 * bins), or a list of maps (levels: one set of positions).
        reg_teacher: the same shapes; gets no gradient.
        weight: one number for each position, in the order of labels (N, H, W); 0 leaves it out. None for 1.
        tau: temperature.
        bins: "mean" or "sum".
        avg_factor: what the sum is divided by; None for the sum of the weights, 1.0 for the released sum.

    Returns:
        A scalar; 0 where no position has weight.

    Raises:
        ValueError: for shapes that differ, channels that are not a multiple of 4, `tau` not above 0, a weight of another
            length.

    References:
        Zheng et al., arXiv 2102.12252. Differs from the paper in the mean over the bins, as the program.

    >>> _ = torch.manual_seed(0)
    >>> print(f"{ld_loss(torch.randn(2, 8, 3, 3), torch.randn(2, 8, 3, 3)).item():.4f}")
    0.1650
    """
    check_positive("tau", tau)
    check_choice("bins", bins, ("mean", "sum"))
    student, teacher = paired_rows(reg_student, reg_teacher, "box distributions")
    student, teacher = (split_sides(x).div(tau).log_softmax(2) for x in (student, teacher))
    sides = F.kl_div(student, teacher, reduction="none", log_target=True).sum(2)
    scale = tau**2 / (student.shape[2] if bins == "mean" else 1)
    return mean_by_weight(scale * sides.mean(1), weight, avg_factor)


def ld_terms(
    cls_student: Logits,
    reg_student: Logits,
    cls_teacher: Logits,
    reg_teacher: Logits,
    labels: Logits,
    vlr_region: Logits | None = None,
    label_weights: Logits | None = None,
    *,
    tau: float = 10.0,
    class_tau: float = 2.0,
    ld_weight: float = 0.25,
    vlr_weight: float = 0.25,
    class_weight: float = 10.0,
) -> dict[str, Tensor]:
    """Return LD's terms on a GFL head; of several levels, the sum.

    * loss_ld: `ld_weight * sum` over positives of `ld_loss`, weighed by the student's largest class probability;
    * loss_ld_vlr: `vlr_weight / 4 * sum` over the valuable localisation region, weighed by `vlr_region`;
    * loss_kd: `class_weight * mean` over a level's positives of `class_tau^2 KL / C` between softmaxes of the class
      logits (although the head is a sigmoid one: as in the released program). A single class is compared with a background
      of logit 0, which is its sigmoid: in the program, the term is then 0.

    Args:
        cls_student: class logits (N, C, H, W), or a list of levels; likewise the other maps.
        reg_student: box distributions (N, 4 * bins, H, W).
        cls_teacher: as `cls_student`; no gradient.
        reg_teacher: as `reg_student`; no gradient.
        labels: assigned classes (N, H * W) or (N, H, W); positives in 0..C-1, everything else is background.
        vlr_region: values of `valuable_region`, shaped as `labels`; None leaves the term 0.
        label_weights: shaped as `labels`; weigh loss_kd, not the box terms.
        tau: temperature of the boxes.
        class_tau: temperature of the classes.
        ld_weight: factor of loss_ld.
        vlr_weight: factor of loss_ld_vlr.
        class_weight: factor of loss_kd.

    Returns:
        `dict(loss_ld=..., loss_ld_vlr=..., loss_kd=...)`, scalars, 0 without positives.

    Raises:
        ValueError: for shapes or numbers of levels that differ, also of the labels, weights and regions.

    References:
        Zheng et al., arXiv 2102.12252, sums and factors as in the released program: neither box term is divided by the
        number of positives. Its feature imitation is another term; its class term outside the positives weighs 0 and is
        left out.

    >>> _ = torch.manual_seed(0)
    >>> cls, reg = torch.randn(2, 1, 3, 2, 2), torch.randn(2, 1, 8, 2, 2)
    >>> terms = ld_terms(cls[0], reg[0], cls[1], reg[1], torch.tensor([[0, 3, 3, 1]]))
    >>> print({name: round(value.item(), 4) for name, value in terms.items()})
    {'loss_ld': 0.0719, 'loss_ld_vlr': 0.0, 'loss_kd': 2.738}
    """
    levels: list[list[Any]] = [
        [x] if isinstance(x, Tensor) else list(x) for x in (cls_student, reg_student, cls_teacher, reg_teacher, labels)
    ]
    for x in (vlr_region, label_weights):
        levels.append([None] * len(levels[0]) if x is None else [x] if isinstance(x, Tensor) else list(x))
    for others in levels[1:]:
        check_pyramids(levels[0], others)
    sums: dict[str, Tensor] = {}
    for cls_s, reg_s, cls_t, reg_t, label, region, seen in zip(*levels, strict=True):
        student, teacher = paired_rows(cls_s, cls_t, "class logits")
        label = one_each("labels", label, student)
        positive = (label >= 0) & (label < student.shape[1])
        score = torch.where(positive, student.detach().sigmoid().amax(1), 0.0)
        area = torch.zeros_like(score) if region is None else region
        logits = [x / class_tau for x in (student, teacher)]
        if student.shape[1] == 1:  # a softmax over one class is 1 whatever the logits
            logits = [F.pad(x, (0, 1)) for x in logits]
        log_p, log_q = (x.log_softmax(1) for x in logits)
        kl = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1) / student.shape[1]
        counted = positive * row_weights(student, seen)
        terms = {
            "loss_ld": ld_weight * ld_loss(reg_s, reg_t, score, tau=tau, avg_factor=1.0),
            "loss_ld_vlr": vlr_weight / 4 * ld_loss(reg_s, reg_t, area, tau=tau, avg_factor=1.0),
            "loss_kd": class_weight * class_tau**2 * mean_by_weight(kl, counted, positive.sum()),
        }
        sums = {name: sums[name] + value if name in sums else value for name, value in terms.items()}
    return sums


class LDLoss(nn.Module):
    """Sum LD's three terms; see `ld_terms`.

    Config::

        loss=dict(type='freqkd.LDLoss', tau=10.0, class_tau=2.0, ld_weight=0.25, vlr_weight=0.25, class_weight=10.0)

    >>> cls, reg = torch.zeros(1, 3, 2, 2), torch.zeros(1, 8, 2, 2)
    >>> LDLoss()(cls, reg, cls, reg, torch.tensor([[0, 3, 3, 1]])).item()
    0.0
    """

    def __init__(
        self,
        tau: float = 10.0,
        class_tau: float = 2.0,
        ld_weight: float = 0.25,
        vlr_weight: float = 0.25,
        class_weight: float = 10.0,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        for name, value in (("tau", tau), ("class_tau", class_tau)):
            check_positive(name, value)
        weights = {"ld_weight": ld_weight, "vlr_weight": vlr_weight, "class_weight": class_weight}
        for name, value in {**weights, "loss_weight": loss_weight}.items():
            check_at_least(name, value, 0)
        self.options: dict[str, Any] = dict(tau=tau, class_tau=class_tau, **weights)
        self.loss_weight = loss_weight

    def forward(
        self,
        cls_student: Logits,
        reg_student: Logits,
        cls_teacher: Logits,
        reg_teacher: Logits,
        labels: Logits,
        vlr_region: Logits | None = None,
        label_weights: Logits | None = None,
    ) -> Tensor:
        maps = (cls_student, reg_student, cls_teacher, reg_teacher, labels, vlr_region, label_weights)
        return self.loss_weight * torch.stack(list(ld_terms(*maps, **self.options).values())).sum()


def valuable_region(
    boxes: Tensor, num_level_boxes: Sequence[int], gt_boxes: Tensor, *, topk: int = 9, lower: float = 0.25
) -> Tensor:
    """Return LD's valuable localisation region of one image: for each anchor its IoU with an object it is near, else 0.

    An object's threshold is mean + deviation of the IoU of the `topk` anchors of each level nearest to its centre
    (ATSS). An anchor is in its region where `lower * threshold <= D < threshold`, with D = overlap / anchor area -
    (centre distance / diagonal of the enclosing box)^2. Of several objects the one of largest IoU gives the value.
    Positives may lie in it.

    Args:
        boxes: anchors (A, 4) of all levels, x1 y1 x2 y2.
        num_level_boxes: number of anchors of each level.
        gt_boxes: objects (G, 4); none gives zeros.
        topk: candidates of each level.
        lower: lower end of the region, as a share of the threshold.

    Returns:
        (A,).

    Raises:
        ValueError: where `num_level_boxes` does not sum to A.

    References:
        Zheng et al., arXiv 2102.12252. Differs from the paper, as the program does: D divides by the
        anchor's area where a distance IoU divides by the union.

    >>> anchors = torch.tensor([[0.0, 0, 8, 8], [8, 0, 16, 8], [4, 4, 12, 12]])
    >>> valuable_region(anchors, [3], torch.tensor([[0.0, 0, 10, 10]]))
    tensor([0.0000, 0.0000, 0.2812])
    """
    if sum(num_level_boxes) != len(boxes):
        raise ValueError(f"num_level_boxes must sum to the {len(boxes)} boxes, got {list(num_level_boxes)}")
    if not len(gt_boxes) or not len(boxes):
        return boxes.new_zeros(len(boxes))
    a, g = boxes[:, None], gt_boxes[None]
    areas = [(x[..., 2] - x[..., 0]) * (x[..., 3] - x[..., 1]) for x in (a, g)]
    overlap = (torch.minimum(a[..., 2:], g[..., 2:]) - torch.maximum(a[..., :2], g[..., :2])).clamp(min=0).prod(-1)
    iou = overlap / (areas[0] + areas[1] - overlap).clamp(min=1e-6)
    gap = ((a[..., :2] + a[..., 2:]) - (g[..., :2] + g[..., 2:])).square().sum(-1) / 4
    hull = torch.maximum(a[..., 2:], g[..., 2:]) - torch.minimum(a[..., :2], g[..., :2])
    closeness = overlap / areas[0].clamp(min=1e-6) - gap / hull.square().sum(-1).clamp(min=1e-6)
    near, start = [], 0
    for count in num_level_boxes:
        near.append(start + gap[start : start + count].topk(min(topk, count), 0, largest=False).indices)
        start += count
    candidates = iou.gather(0, torch.cat(near))
    threshold = candidates.mean(0) + (candidates.std(0) if len(candidates) > 1 else 0.0)
    inside = (closeness >= lower * threshold) & (closeness < threshold)
    return torch.where(inside, iou, 0.0).amax(1)
