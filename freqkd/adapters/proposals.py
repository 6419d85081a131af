"""Softmax box heads of two-stage detectors: the teacher's box head on the student's sampled proposals."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from freqkd.adapters.dense import check_activation
from freqkd.checks import check_whole
from freqkd.distillers.batch import Batch
from freqkd.taps import find_module


class ProposalLogits:
    """Hand both networks' class logits of the student's sampled proposals, and their classes, to a logit loss.

    The student's own sampler picks the proposals and its own assigner labels them; the teacher's box head then answers
    for the same boxes on its own features, without its RPN. Rows are proposals, background is the last class, C.
    What the student did is read where it happens: the boxes as its RoI extractor gets them, the logits as its box head
    gives them, the labels as its class loss gets them.

    Args:
        stage: which box head of a cascade; None for a detector with one.

    Raises:
        ValueError: a negative stage; on use, the teacher has no such box head.

    Config::

        loss_dkd=dict(
            type='freqkd.DistillTerm', student='roi_head.bbox_head.fc_cls', adapter=dict(type='freqkd.ProposalLogits'),
            loss=dict(
                type='freqkd.LogitLoss', softening=dict(type='fixed', tau=1.0),
                divergence=dict(type='dkd', alpha=1.0, beta=0.25)))

    References:
        Zhao et al., arXiv 2203.08679 (DKD on Faster R-CNN; alpha 1, beta 0.25, tau 1).
    """

    teacher_taps: tuple[str, ...] = ()
    asks_teacher = True

    def __init__(self, stage: int | None = None) -> None:
        if stage is not None:
            check_whole("stage", stage, 0)
        self.stage = stage
        end = "" if stage is None else f".{stage}"
        self._extractor, self._head = f"roi_head.bbox_roi_extractor{end}", f"roi_head.bbox_head{end}"
        self.student_taps: tuple[str, ...] = (self._head,)
        self.student_inputs: tuple[str, ...] = (self._extractor, f"{self._head}.loss_cls")

    def check_head(self, network: nn.Module, path: str, loss: nn.Module, owner: str) -> None:
        """Check that the loss is for a network's box head; see `check_activation`."""
        check_activation(dict(network.named_modules()).get(self._head), loss, owner)

    def __call__(self, student: list[Tensor], teacher: list[Tensor], batch: Batch) -> dict[str, Any]:
        """Return `student` and `teacher` logits (R, C + 1) and `target` (R,)."""
        logits = batch.seen[self._head][0]
        judged = batch.fed[f"{self._head}.loss_cls"]
        if not judged:  # no proposal at all: mmdet then asks for no class loss
            return dict(student=logits, teacher=logits.detach(), target=logits.new_zeros(len(logits), dtype=torch.long))
        _, rois = batch.fed[self._extractor][0][:2]
        return dict(student=logits, teacher=self.ask(batch, rois), target=judged[0][1])

    @torch.no_grad()
    def ask(self, batch: Batch, rois: Tensor) -> Tensor:
        """Return the teacher's class logits of these boxes, (R, 5) with the number of their image first."""
        head: Any = find_module(batch.teacher.model, "roi_head")
        stages = len(head.bbox_head) if isinstance(head.bbox_head, nn.ModuleList) else None
        if (stages is None) != (self.stage is None) or (stages is not None and int(self.stage or 0) >= stages):
            has = "one box head: leave stage=None" if stages is None else f"{stages}: give one of 0 to {stages - 1}"
            raise ValueError(
                f"stage must name a box head of student and teacher, got {self.stage}; the teacher has {has}"
            )
        which = () if self.stage is None else (self.stage,)
        logits: Tensor = head._bbox_forward(*which, batch.teacher_feats(), rois.detach())["cls_score"]
        return logits
