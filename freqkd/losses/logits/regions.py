"""Regions: mean logits of the cells of a map at several scales (SDD)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from freqkd.utils.checks import check_at_least, check_choice, check_sequence, check_whole, resolve_choice

__all__ = ["build_regions"]

BASE = 4  # the grid the coarser scales are pooled from, as in the released program


class RegionRows(NamedTuple):
    """Regions as samples: logits (M, C), labels (M,) or None, and how much each region counts, (M,)."""

    student: Tensor
    teacher: Tensor
    target: Tensor | None
    weight: Tensor


def _cells(x: Tensor, grid: int, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """Reduce each cell of a grid x grid partition of the last two axes, (..., H, W) -> (..., grid * grid), row-major.

    The cells are those of adaptive pooling (they overlap where the size is not a multiple), written as slices because the
    backward of adaptive pooling is not deterministic on GPUs.
    """
    height, width = x.shape[-2:]
    rows = [(i * height // grid, -(-(i + 1) * height // grid)) for i in range(grid)]
    columns = [(j * width // grid, -(-(j + 1) * width // grid)) for j in range(grid)]
    return torch.stack([reduce(x[..., a:b, c:d]) for a, b in rows for c, d in columns], -1)


def _mean(x: Tensor) -> Tensor:
    return x.mean((-2, -1))


def _sum(x: Tensor) -> Tensor:
    return x.sum((-2, -1))


def _square(cells: Tensor) -> Tensor:
    side = math.isqrt(cells.shape[-1])
    return cells.reshape(*cells.shape[:-1], side, side)


def _base(scales: Sequence[int]) -> int:
    return max(BASE, *scales)


def pool_regions(logits: Tensor, scales: Sequence[int] = (1, 2, 4), valid: Tensor | None = None) -> Tensor:
    """Average a map of logits over the cells of each scale, row-major: (N, C, H, W) -> (N, C, sum of scale^2).

    The map is first pooled to 4 x 4 (to the finest scale, where that is finer), and every scale from that, as the
    authors' program does: on sizes that are not multiples of 4 the coarsest region is not exactly the mean of the map.
    With `valid` (N, H, W), only valid positions enter a mean, and only cells that have one enter the mean of a coarser
    scale; a region without any is 0.

    Args:
        logits: map (N, C, H, W). Pooling before or after a linear classifier is the same.
        scales: number of cells along each side.
        valid: booleans (N, H, W); None for all.

    References:
        Luo, arXiv 2403.13512.

    >>> pool_regions(torch.arange(16.0).view(1, 1, 4, 4), (1, 2))
    tensor([[[ 7.5000,  2.5000,  4.5000, 10.5000, 12.5000]]])
    """
    base = _base(scales)
    if valid is None:
        grid = _square(_cells(logits, base, _mean))
        return torch.cat([_cells(grid, scale, _mean) for scale in scales], -1)
    count = _cells(valid[:, None].to(logits.dtype), base, _sum)
    masked = logits.masked_fill(~valid[:, None], 0.0)  # what an ignored position holds, nan included, is never read
    grid = _square(_cells(masked, base, _sum) / count.clamp(min=1))
    known = _square((count > 0).to(logits.dtype))
    parts = [_cells(grid, scale, _sum) / _cells(known, scale, _sum).clamp(min=1) for scale in scales]
    return torch.cat(parts, -1)


def majority_labels(
    target: Tensor, num_labels: int, scales: Sequence[int] = (1, 2, 4), ignore_index: int | None = None
) -> Tensor:
    """Return the most frequent valid label of each region, -1 for none: (N, H, W) -> (N, sum of scale^2).

    The votes of a region are those of its cells of the 4 x 4 grid (a pixel on the edge of two overlapping cells votes
    in both, as it does in the pooling). Of equally frequent labels the smallest wins.

    Args:
        target: labels (N, H, W), valid ones in 0..num_labels-1.
        num_labels: number of labels.
        scales: as in `pool_regions`.
        ignore_index: label that has no vote.

    >>> labels = torch.tensor([[[0, 0, 1, 1], [0, 2, 1, 1], [9, 9, 2, 9], [9, 9, 9, 9]]])
    >>> majority_labels(labels, 3, (1, 2), ignore_index=9)
    tensor([[ 1,  0,  1, -1,  2]])
    """
    base = _base(scales)
    valid = torch.ones_like(target, dtype=torch.bool) if ignore_index is None else target != ignore_index
    images = torch.arange(len(target), device=target.device)[:, None, None]
    bins = torch.where(valid, target + images * num_labels, len(target) * num_labels)  # the last bin is thrown away

    def vote(cell: Tensor) -> Tensor:
        counts = torch.bincount(cell.reshape(-1), minlength=len(target) * num_labels + 1)
        return counts[:-1].view(len(target), num_labels)

    votes = _square(_cells(bins, base, vote))
    counts = torch.cat([_cells(votes, scale, _sum) for scale in scales], -1)
    return torch.where(counts.sum(1) > 0, counts.argmax(1), -1)


def predicted_label(logits: Tensor, activation: str = "softmax") -> Tensor:
    """Return the class that logits (N, C, ...) predict; a sigmoid head without a positive logit predicts background, C.

    >>> predicted_label(torch.tensor([[-1.0, -2.0]]), "sigmoid")
    tensor([2])
    """
    best, label = logits.max(1)
    return torch.where(best > 0, label, logits.shape[1]) if activation == "sigmoid" else label


class ScaleRegions(nn.Module):
    """SDD: each region of the map is a sample; complementary regions count `complementary` times as much as others.

    rule="label" (the released program): a region is complementary where the teacher is right on it and wrong on the
    whole, or the other way round. The label of a region is the image's where `target` is (N,), and its majority valid
    label where `target` is (N, H, W) (an addition of this package, see `majority_labels`); then ignored positions are
    left out of the means, and regions without a valid position are dropped. The label of a sigmoid head's background
    is C. rule="prediction" (the paper): a region is complementary where the teacher's class on it is another than on
    the whole; this needs no labels.

    Differs from the paper in the mean over regions where the paper has a sum.

    Raises:
        ValueError: for scales below 1, no scale, a weight below 0, a rule that is neither.

    References:
        Luo, arXiv 2403.13512.

    >>> regions = ScaleRegions(scales=(1, 2))
    >>> rows = regions(torch.zeros(3, 5, 8, 8), torch.ones(3, 5, 8, 8), torch.tensor([0, 1, 2]))
    >>> rows.student.shape, rows.weight.sum().item()
    (torch.Size([15, 5]), 15.0)
    """

    def __init__(self, scales: Sequence[int] = (1, 2, 4), complementary: float = 2.0, rule: str = "label") -> None:
        super().__init__()
        check_sequence("scales", scales, "numbers of cells along a side")
        if not scales:
            raise ValueError("scales must name at least one scale, got none; (1,) is the whole map alone")
        for scale in scales:
            check_whole("scales", scale, 1, most=256)
        check_at_least("complementary", complementary, 0)
        check_choice("rule", rule, ("label", "prediction"))
        self.scales, self.complementary, self.rule = tuple(scales), complementary, rule

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        target: Tensor | None = None,
        activation: str = "softmax",
        ignore_index: int | None = None,
    ) -> RegionRows:
        """Take maps (N, C, H, W) and checked labels (N,), (N, H, W) or none apart, one image after the other."""
        valid = None
        if target is not None and target.dim() == 1 and ignore_index is not None:
            keep = target != ignore_index
            student, teacher, target = student[keep], teacher[keep], target[keep]
        elif target is not None and ignore_index is not None:
            valid = target != ignore_index
        scales = (1, *self.scales)  # the first region is the whole, to judge the others by
        student_regions, teacher_regions = (
            pool_regions(student, self.scales, valid),
            pool_regions(teacher, scales, valid),
        )
        labels = None
        if target is not None:
            if target.dim() == 1:
                labels = target[:, None].expand(len(target), teacher_regions.shape[2])
            else:
                labels = majority_labels(target, teacher.shape[1] + (activation == "sigmoid"), scales, ignore_index)
        judged = predicted_label(teacher_regions, activation)
        if self.rule == "label":
            if labels is None:
                raise ValueError(
                    "target must be given: regions are judged by labels; regions=dict(rule='prediction') needs none"
                )
            odd = (judged == labels) != (judged == labels)[:, :1]
        else:
            odd = judged != judged[:, :1]
        weight = 1 + (self.complementary - 1) * odd[:, 1:].to(student_regions.dtype)
        rows = [x.transpose(1, 2).flatten(0, 1) for x in (student_regions, teacher_regions[..., 1:])]
        if labels is None:
            return RegionRows(rows[0], rows[1], None, weight.flatten())
        flat = labels[:, 1:].flatten()
        has = flat >= 0
        return RegionRows(rows[0][has], rows[1][has], flat[has], weight.flatten()[has])


REGIONS: dict[str, type[ScaleRegions]] = {"scales": ScaleRegions}


def build_regions(spec: Any) -> ScaleRegions | None:
    """Build regions from None, an instance or a dict of `ScaleRegions`' arguments; 'type' may be left out.

    >>> build_regions(dict(scales=(1, 2))).scales
    (1, 2)
    """
    if isinstance(spec, dict) and "type" not in spec:
        spec = {"type": "scales", **spec}
    return None if spec is None else resolve_choice("regions", spec, REGIONS, ScaleRegions)
