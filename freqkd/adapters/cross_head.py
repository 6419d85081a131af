"""Cross-head predictions of CrossKD: student features in the teacher's head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqkd.adapters.base import Batch, HeadAdapter
from freqkd.adapters.dense import count_boxes, unfold_anchors, unfold_class_map
from freqkd.adapters.distribution import Targets, assign_targets
from freqkd.adapters.heads import check_activation, check_num_classes, describe_head
from freqkd.losses import align_statistics
from freqkd.utils.checks import check_pyramids, check_whole

HEAD = "bbox_head"
Maps = list[Tensor]


def run_branch(convs: nn.ModuleList, feat: Tensor, index: int) -> Tensor:
    """Run the first `index` convolutions of a branch, the last one without its activation."""
    for depth, conv in enumerate(convs[:index]):
        feat = conv(feat, activate=depth + 1 < index)
    return feat


def decode_boxes(head: Any, maps: Maps, targets: Targets) -> Maps:
    """Decode an anchor head's box predictions (N, A * 4, H, W) to corners (N, 4, A, H, W), level by level.

    Args:
        head: the head that made the predictions, whose `bbox_coder` decodes them.
        maps: the predictions.
        targets: the batch's targets, for their anchors.
    """
    boxes = []
    for level, anchors in zip(maps, targets.anchors.split(targets.num_level_anchors), strict=True):
        deltas = level.float().permute(0, 2, 3, 1).reshape(len(level), -1, 4)  # ordered as mmdet's anchors
        corners = head.bbox_coder.decode(anchors.expand(len(level), -1, -1), deltas)
        boxes.append(corners.reshape(len(level), *level.shape[-2:], -1, 4).permute(0, 4, 3, 1, 2))
    return boxes


def by_anchor(values: Sequence[Tensor], maps: Maps) -> Tensor:
    """Reorder values per anchor, (N, H * W * A) for each level, as the rows of `unfold_anchors`: by level, (N, A, H, W).

    >>> by_anchor([torch.arange(8).reshape(1, 8)], [torch.zeros(1, 3, 2, 2, 2)])
    tensor([0, 2, 4, 6, 1, 3, 5, 7])
    """
    shapes = [(len(level), *level.shape[-2:], -1) for level in maps]
    return torch.cat([x.reshape(s).permute(0, 3, 1, 2).reshape(-1) for x, s in zip(values, shapes, strict=True)])


class CrossHead(HeadAdapter):
    """Make cross-head predictions: student features after `index` convolutions, through the rest of the teacher's branch.

    On each level, the student's feature before the activation is normalised to the teacher's mean and deviation per
    channel, activated, and passed through the teacher's remaining convolutions and predictor; gradients reach the student
    only. The cross-head predictions are compared with the teacher's; the student's own predictions learn from the ground
    truth alone. The student's assigner decides which positions are positive and which count.

    Features of another width than the teacher's need the term's `align` and `index=0`, which takes the (aligned) FPN
    feature, without activation.

    Args:
        index: number of convolutions of the student's branch that are used; the paper uses 3 of 4.
        cls: name of the class predictor in the head.
        reg: name of the box predictor, of distributions (GFL) for `CrossKDLoss`, of boxes (`retina_reg`, `atss_reg`) for
            `CrossKDBoxLoss`; None: only classes, for a `LogitLoss` with quality focal divergence.
        centerness: name of the centerness predictor beside the boxes (`atss_centerness`); None: none.
        num_classes: C, to unfold anchors; None: as the teacher's head says.

    Raises:
        ValueError: an argument out of range; heads with another number of classes; features of another width than the
            teacher's.

    References:
        Wang et al., arXiv 2306.11369.

    Config::

        loss_crosskd=dict(
            type='freqkd.DistillTerm', student_tap='neck',
            adapter=dict(type='freqkd.CrossHead', index=3, cls='gfl_cls', reg='gfl_reg'),
            loss=dict(type='freqkd.CrossKDLoss'))
    """

    def __init__(
        self,
        index: int = 3,
        cls: str = "gfl_cls",
        reg: str | None = "gfl_reg",
        centerness: str | None = None,
        num_classes: int | None = None,
    ) -> None:
        check_whole("index", index, 0)
        if num_classes is not None:
            check_whole("num_classes", num_classes, 1)
        if reg is None and centerness is not None:
            raise ValueError(
                f"centerness must be None where reg is None, got {centerness!r}: its predictor is on the branch of boxes"
            )
        self.index, self.cls, self.reg = index, cls, reg
        self.centerness, self.num_classes = centerness, num_classes

    def check_head(self, network: nn.Module, path: str, loss: nn.Module, owner: str) -> None:
        """Check that a logit loss and `num_classes` are for a network's `bbox_head`; see `check_activation`."""
        head = getattr(network, HEAD, None)
        if head is not None:
            check_num_classes(self.num_classes, describe_head(network, HEAD), owner)
        if self.reg is not None and head is not None and not hasattr(head, "get_anchors"):
            raise ValueError(
                f"reg must be None for the {owner}'s {type(head).__name__}, which assigns points, not anchors, to boxes, got "
                f"{self.reg!r}; compare classes alone, e.g. by a LogitLoss"
            )
        check_activation(head, loss, owner)

    def __call__(self, student_feats: list[Tensor], teacher_feats: list[Tensor], batch: Batch) -> dict[str, Any]:
        """Return the loss's arguments for the neck's maps of both networks."""
        check_pyramids(student_feats, teacher_feats)
        heads = self.choose_heads(batch)
        [(cross_cls, cls_teacher)] = self._branch(heads, "cls_convs", (self.cls,), student_feats, teacher_feats)
        kind = describe_head(batch.teacher.model, HEAD)
        cross, teacher = (
            [unfold_class_map(level, kind, self.num_classes) for level in maps] for maps in (cross_cls, cls_teacher)
        )
        if self.reg is None and not hasattr(heads[0], "get_anchors"):  # FCOS assigns points
            return dict(student=cross, teacher=teacher, avg_factor=count_boxes(batch))
        targets = assign_targets(heads[0], cross_cls, batch.data_samples)
        label_weights = by_anchor(targets.label_weights, cross)
        if self.reg is None:
            sizes = [x[:, 0].numel() for x in cross]
            weights = [w.view_as(x[:, 0]) for w, x in zip(label_weights.split(sizes), cross, strict=True)]
            return dict(student=cross, teacher=teacher, weight=weights, avg_factor=targets.positives)
        predictors = (self.reg,) if self.centerness is None else (self.reg, self.centerness)
        (cross_reg, reg_teacher), *more = self._branch(heads, "reg_convs", predictors, student_feats, teacher_feats)
        found: dict[str, Any] = dict(label_weights=label_weights, avg_factor=targets.positives)
        if hasattr(heads[1], "integral"):  # distributions, one anchor for each position
            return dict(
                cross_cls=cross_cls, cross_reg=cross_reg, cls_teacher=cls_teacher, reg_teacher=reg_teacher, **found
            )
        boxes = [decode_boxes(heads[1], maps, targets) for maps in (cross_reg, reg_teacher)]
        found.update(cross_cls=cross, cross_boxes=boxes[0], cls_teacher=teacher, boxes_teacher=boxes[1])
        if more:
            centers = [[unfold_anchors(level, 1) for level in maps] for maps in more[0]]
            labels = by_anchor(targets.labels, cross)
            positive = (labels >= 0) & (labels < cross[0].shape[1])
            found.update(cross_centerness=centers[0], centerness_teacher=centers[1], positive=positive)
        return found

    def choose_heads(self, batch: Batch) -> tuple[Any, Any]:
        """Return the student's head, whose first convolutions are used and which assigns targets, and the teacher's."""
        batch.teacher.ready_heads()
        return batch.student.bbox_head, batch.teacher.model.bbox_head

    def fit(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the student's feature as the teacher's convolutions take it: with the statistics of the teacher's."""
        return align_statistics(student, teacher)

    def _branch(
        self, heads: tuple[Any, Any], convs: str, predictors: Sequence[str], student_feats: Maps, teacher_feats: Maps
    ) -> list[tuple[Maps, Maps]]:
        """Return the cross-head predictions and the teacher's of one branch, level by level, for each predictor."""
        student_convs, teacher_convs = (getattr(head, convs) for head in heads)
        most = min(len(student_convs), len(teacher_convs))
        if self.index > most:
            raise ValueError(f"index must be at most {most}, the number of convolutions in {convs}, got {self.index}")
        found: list[tuple[Maps, Maps]] = [([], []) for _ in predictors]
        for level, (student, teacher) in enumerate(zip(student_feats, teacher_feats, strict=True)):
            with torch.no_grad():
                reference = run_branch(teacher_convs, teacher, self.index)
                teacher_last = self._finish(teacher_convs, reference)
            fitted = self.fit(run_branch(student_convs, student, self.index), reference)
            cross_last = self._finish(teacher_convs, fitted)
            for name, (cross_maps, teacher_maps) in zip(predictors, found, strict=True):
                scaled = name == self.reg and hasattr(heads[1], "scales")
                scale = heads[1].scales[level] if scaled else nn.Identity()
                predict = getattr(heads[1], name)
                cross_maps.append(scale(predict(cross_last)))
                with torch.no_grad():
                    teacher_maps.append(scale(predict(teacher_last)))
        return found

    def _finish(self, convs: nn.ModuleList, feat: Tensor) -> Tensor:
        """Run the convolutions from `index` on; an FPN feature (index 0) is not activated before them."""
        feat = F.relu(feat) if self.index else feat
        for conv in convs[self.index :]:
            feat = conv(feat)
        return feat
