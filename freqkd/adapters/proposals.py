"""Class logits of two-stage detectors: both box heads on the student's sampled proposals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from freqkd.adapters.base import Batch, HeadAdapter
from freqkd.adapters.classes import build_shared
from freqkd.adapters.heads import check_activation
from freqkd.adapters.roi_stages import find_stage, roi_stages, stage_path
from freqkd.taps import find_module


class ProposalLogits(HeadAdapter):
    """Hand both networks' class logits of the student's sampled proposals, and their classes, to a logit loss.

    The student's assigner and sampler choose the proposals and label them; the teacher's box head then classifies the same
    boxes on the teacher's features, without the teacher's RPN. Rows are proposals, background is the last class, C. The
    boxes are recorded as the student's RoI extractor receives them, the logits as its box head returns them, the labels as
    its class loss receives them.

    Args:
        stage: index of the box head of a cascade, in both networks; None for detectors with one box head.
        student_stage: index in the student, where it is another one; None: as `stage` says.
        teacher_stage: index in the teacher. A Faster R-CNN learns from the last head of a Cascade R-CNN by teacher_stage=2.
        classes: None where both networks have the same classes in the same order. "shared": the classes that both have by name,
            as `freqkd train` finds them in the data and in the teacher's checkpoint; or pairs of indices (student, teacher).
            The softmax then runs over these and the background; proposals of another class count as background.

    Raises:
        ValueError: a negative stage, or `stage` beside one of the others; a network without such a box head.

    Config::

        loss_dkd=dict(
            type='freqkd.DistillTerm', student_tap='roi_head.bbox_head.fc_cls', adapter=dict(type='freqkd.ProposalLogits'),
            loss=dict(
                type='freqkd.LogitLoss', softening=dict(type='fixed', tau=1.0),
                divergence=dict(type='dkd', alpha=1.0, beta=0.25)))

    References:
        Zhao et al., arXiv 2203.08679 (DKD on Faster R-CNN; alpha 1, beta 0.25, tau 1).
    """

    runs_teacher = True
    reads_logits = True

    def __init__(
        self,
        stage: int | None = None,
        student_stage: int | None = None,
        teacher_stage: int | None = None,
        classes: str | Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.shared = build_shared(classes)
        self.stages = roi_stages(stage, student_stage, teacher_stage)
        self._extractor = stage_path("bbox_roi_extractor", self.stages["student"])
        self._head = stage_path("bbox_head", self.stages["student"])
        self.student_taps = (self._head,)
        self.student_inputs = (self._extractor, f"{self._head}.loss_cls")

    def check_head(self, network: nn.Module, path: str, loss: nn.Module, owner: str) -> None:
        """Check that the loss is for a network's box head, and that there is one; see `check_activation`."""
        check_activation(find_stage(network, "bbox_head", self.stages[owner], owner), loss, owner)

    def __call__(self, student_feats: list[Tensor], teacher_feats: list[Tensor], batch: Batch) -> dict[str, Any]:
        """Return `student` and `teacher` logits (R, C + 1) and `target` (R,)."""
        logits = batch.student_feats[self._head][0]
        loss_calls = batch.student_inputs[f"{self._head}.loss_cls"]
        if not loss_calls:  # mmdet computes no class loss where there is no proposal
            return dict(student=logits, teacher=logits.detach(), target=logits.new_zeros(len(logits), dtype=torch.long))
        _, rois = batch.student_inputs[self._extractor][0][:2]
        teacher, target = self.teacher_logits(batch, rois), loss_calls[0][1]
        if self.shared is not None:
            logits = self.shared.select(logits, "student", background=True)
            teacher = self.shared.select(teacher, "teacher", background=True)
            target = self.shared.relabel(target, other=logits.shape[1] - 1)
        return dict(student=logits, teacher=teacher, target=target)

    @torch.no_grad()
    def teacher_logits(self, batch: Batch, rois: Tensor) -> Tensor:
        """Return the teacher's class logits (R, C + 1) of boxes (R, 5): index of the image, x1, y1, x2, y2."""
        head: Any = find_module(batch.teacher.model, "roi_head")
        stage = [] if self.stages["teacher"] is None else [self.stages["teacher"]]
        logits: Tensor = head._bbox_forward(*stage, batch.teacher_neck(), rois.detach())["cls_score"]
        return logits
