"""Class logits of two-stage detectors: both box heads on the student's sampled proposals."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from freqkd.adapters.base import Batch, HeadAdapter
from freqkd.adapters.dense import check_activation
from freqkd.taps import find_module
from freqkd.utils.checks import check_whole


class ProposalLogits(HeadAdapter):
    """Hand both networks' class logits of the student's sampled proposals, and their classes, to a logit loss.

    The student's assigner and sampler choose the proposals and label them; the teacher's box head then classifies the same
    boxes on the teacher's features, without the teacher's RPN. Rows are proposals, background is the last class, C. The
    boxes are recorded as the student's RoI extractor receives them, the logits as its box head returns them, the labels as
    its class loss receives them.

    Args:
        stage: index of the box head of a cascade; None for a detector with one box head.

    Raises:
        ValueError: a negative stage; on use, the teacher has no such box head.

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

    def __init__(self, stage: int | None = None) -> None:
        if stage is not None:
            check_whole("stage", stage, 0)
        self.stage = stage
        end = "" if stage is None else f".{stage}"
        self._extractor, self._head = f"roi_head.bbox_roi_extractor{end}", f"roi_head.bbox_head{end}"
        self.student_taps = (self._head,)
        self.student_inputs = (self._extractor, f"{self._head}.loss_cls")

    def check_head(self, network: nn.Module, path: str, loss: nn.Module, owner: str) -> None:
        """Check that the loss is for a network's box head; see `check_activation`."""
        check_activation(dict(network.named_modules()).get(self._head), loss, owner)

    def __call__(self, student_feats: list[Tensor], teacher_feats: list[Tensor], batch: Batch) -> dict[str, Any]:
        """Return `student` and `teacher` logits (R, C + 1) and `target` (R,)."""
        logits = batch.student_feats[self._head][0]
        loss_calls = batch.student_inputs[f"{self._head}.loss_cls"]
        if not loss_calls:  # mmdet computes no class loss where there is no proposal
            return dict(student=logits, teacher=logits.detach(), target=logits.new_zeros(len(logits), dtype=torch.long))
        _, rois = batch.student_inputs[self._extractor][0][:2]
        return dict(student=logits, teacher=self.teacher_logits(batch, rois), target=loss_calls[0][1])

    @torch.no_grad()
    def teacher_logits(self, batch: Batch, rois: Tensor) -> Tensor:
        """Return the teacher's class logits (R, C + 1) of boxes (R, 5): index of the image, x1, y1, x2, y2."""
        head: Any = find_module(batch.teacher.model, "roi_head")
        stages = len(head.bbox_head) if isinstance(head.bbox_head, nn.ModuleList) else None
        if (stages is None) != (self.stage is None) or (stages is not None and int(self.stage or 0) >= stages):
            has = "one box head: leave stage=None" if stages is None else f"{stages}: set stage from 0 to {stages - 1}"
            raise ValueError(
                f"stage must be that of a box head of student and teacher, got {self.stage}; the teacher has {has}"
            )
        stage = () if self.stage is None else (self.stage,)
        logits: Tensor = head._bbox_forward(*stage, batch.teacher_neck(), rois.detach())["cls_score"]
        return logits
