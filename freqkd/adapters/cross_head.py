"""CrossKD: the student's head features go on through the teacher's head. From the formula alone."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqkd.adapters.dense import count_boxes, unfold_anchors
from freqkd.adapters.distribution import assign_targets
from freqkd.checks import check_at_least
from freqkd.distillers.batch import Batch
from freqkd.losses import align_statistics


def run_branch(convs: nn.ModuleList, feat: Tensor, index: int) -> Tensor:
    """Run the first `index` convolutions of a branch; the last of them without its activation."""
    for depth, conv in enumerate(convs[:index]):
        feat = conv(feat, activate=depth + 1 < index)
    return feat


class CrossHead:
    """Make cross predictions: the student's features at depth `index` of a head branch, through the teacher's rest.

    Each level's student feature before the activation gets the teacher's mean and deviation per channel, is activated,
    and goes through the teacher's remaining convolutions and predictor, with a graph to the student alone. The cross
    predictions are compared with the teacher's own; the student's own keep to the ground truth.

    Features of another width need the term's `align`, and `index=0`: the (aligned) FPN feature, without activation.

    Args:
        index: how many convolutions of its own branch the student keeps; the paper uses 3 of 4.
        cls: name of the class predictor in the head.
        reg: name of the box predictor of a head with distributions (GFL), for `CrossKDLoss`; None: classes alone, for
            a `LogitLoss` with quality focal divergence.
        num_classes: C, to unfold anchors where `reg` is None.

    Raises:
        ValueError: an argument out of range; features of another width than the teacher's.

    References:
        Wang et al., arXiv 2306.11369.

    Config::

        loss_crosskd=dict(
            type='freqkd.DistillTerm', student='neck',
            adapter=dict(type='freqkd.CrossHead', index=3, cls='gfl_cls', reg='gfl_reg'),
            loss=dict(type='freqkd.CrossKDLoss'))
    """

    student_taps: tuple[str, ...] = ()
    teacher_taps: tuple[str, ...] = ()
    asks_teacher = False

    def __init__(
        self, index: int = 3, cls: str = "gfl_cls", reg: str | None = "gfl_reg", num_classes: int | None = None
    ) -> None:
        check_at_least("index", index, 0)
        if reg is None and num_classes is None:
            raise ValueError("num_classes must be given where reg is None: anchors are unfolded by it")
        self.index, self.cls, self.reg, self.num_classes = int(index), cls, reg, num_classes

    def __call__(self, student: list[Tensor], teacher: list[Tensor], batch: Batch) -> dict[str, Any]:
        """Return the arguments of `CrossKDLoss`, or of a `LogitLoss`, for the neck's maps of both networks."""
        batch.teacher.ready_heads()
        heads = batch.student.bbox_head, batch.teacher.model.bbox_head
        cross_cls, own_cls = self._branch(heads, "cls_convs", self.cls, student, teacher)
        if self.reg is None:
            classes = int(self.num_classes or 0)
            cross, own = ([unfold_anchors(level, classes) for level in maps] for maps in (cross_cls, own_cls))
            return dict(student=cross, teacher=own, avg_factor=count_boxes(batch))
        cross_reg, own_reg = self._branch(heads, "reg_convs", self.reg, student, teacher)
        targets = assign_targets(heads[0], cross_cls, batch.data_samples)
        weights = torch.cat([level.reshape(-1) for level in targets.label_weights])
        maps = dict(cross_cls=cross_cls, cross_reg=cross_reg, cls_teacher=own_cls, reg_teacher=own_reg)
        return {**maps, "label_weights": weights, "avg_factor": targets.positives}

    def _branch(
        self, heads: tuple[Any, Any], convs: str, predictor: str, student: list[Tensor], teacher: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the cross predictions and the teacher's own of one branch, level by level."""
        ours, theirs = (getattr(head, convs) for head in heads)
        if self.index > len(ours) or self.index > len(theirs):
            raise ValueError(
                f"index must be at most {min(len(ours), len(theirs))}, the convolutions of {convs}, got {self.index}"
            )
        cross, own = [], []
        for level, (feat, taught) in enumerate(zip(student, teacher, strict=True)):
            scale = heads[1].scales[level] if self.reg is not None and predictor == self.reg else nn.Identity()
            with torch.no_grad():
                reference = run_branch(theirs, taught, self.index)
                own.append(scale(self._finish(heads[1], theirs, predictor, reference)))
            mixed = align_statistics(run_branch(ours, feat, self.index), reference)
            cross.append(scale(self._finish(heads[1], theirs, predictor, mixed)))
        return cross, own

    def _finish(self, head: Any, convs: nn.ModuleList, predictor: str, feat: Tensor) -> Tensor:
        """Go on from depth `index` to the prediction; an FPN feature (index 0) is not activated."""
        feat = F.relu(feat) if self.index else feat
        for conv in convs[self.index :]:
            feat = conv(feat)
        return getattr(head, predictor)(feat)
