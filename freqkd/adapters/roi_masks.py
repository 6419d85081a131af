"""Mask logits of Mask R-CNN: both mask heads on the student's positive proposals."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from freqkd.adapters.base import Batch, HeadAdapter
from freqkd.adapters.heads import check_loss
from freqkd.adapters.roi_stages import find_stage, roi_stages, stage_path
from freqkd.align import resize_pair
from freqkd.taps import find_module


class MaskLogits(HeadAdapter):
    """Hand both networks' mask logits of the student's positive proposals to a logit loss.

    The student's assigner and sampler choose the proposals and their classes; the teacher's mask head then draws the same
    boxes on the teacher's features, without the teacher's RPN. Of either network's masks, that of the proposal's class is
    compared, as in the heads' own loss; every pixel is a yes or no of its own. The teacher's masks are resized to the
    student's where the heads have other sizes.

    Args:
        stage: index of the mask head of a cascade, in both networks; None for detectors with one mask head.
        student_stage: index in the student, where it is another one; None: as `stage` says.
        teacher_stage: index in the teacher.

    Shape:
        Logits: (P, 1, h, w), P positive proposals.

    Raises:
        ValueError: a negative stage, or `stage` beside one of the others; a network without such a mask head; a loss for
            softmax heads; on use, heads of other classes.

    Config::

        loss_mask_kd=dict(
            type='freqkd.DistillTerm', student_tap='neck', adapter=dict(type='freqkd.MaskLogits'),
            loss=dict(type='freqkd.LogitLoss', divergence='binary_kl', activation='sigmoid'))
    """

    runs_teacher = True
    reads_logits = True

    def __init__(
        self, stage: int | None = None, student_stage: int | None = None, teacher_stage: int | None = None
    ) -> None:
        self.stages = roi_stages(stage, student_stage, teacher_stage)
        self._extractor = stage_path("mask_roi_extractor", self.stages["student"])
        self._head = stage_path("mask_head", self.stages["student"])
        self.student_taps = (self._head,)
        self.student_inputs = (self._extractor, f"{self._head}.loss_mask")

    def check_head(self, network: nn.Module, path: str, loss: nn.Module, owner: str) -> None:
        """Check that a network has the mask head, with proposals of its own, and that the loss is for independent logits."""
        head = find_stage(network, "mask_head", self.stages[owner], owner)
        if getattr(find_module(network, "roi_head"), "share_roi_extractor", False):
            raise ValueError(
                f"the {owner}'s roi_head must have a mask_roi_extractor of its own, got share_roi_extractor=True: its masks "
                "are drawn from features of the box head; set mask_roi_extractor in its config"
            )
        check_loss(loss, "sigmoid", f"each pixel of the {owner}'s {type(head).__name__} is a yes or no of its own")

    def __call__(self, student_feats: list[Tensor], teacher_feats: list[Tensor], batch: Batch) -> dict[str, Any]:
        """Return `student` and `teacher` logits (P, 1, h, w)."""
        masks = batch.student_feats[self._head][0]
        loss_calls = batch.student_inputs[f"{self._head}.loss_mask"]
        if not loss_calls:  # mmdet computes no mask loss where no proposal is positive
            empty = masks[:, :1]
            return dict(student=empty, teacher=empty.detach())
        labels = loss_calls[0][2]
        _, rois = batch.student_inputs[self._extractor][0][:2]
        teacher = self.teacher_masks(batch, rois)
        if teacher.shape[1] not in (1, masks.shape[1]):
            raise ValueError(
                f"the teacher's mask head must have {masks.shape[1]} masks for a proposal, as the student's, or one for all "
                f"classes, got {teacher.shape[1]}; both heads need the same classes"
            )
        student, teacher = (_of_class(one, labels) for one in (masks, teacher))
        student, teacher = resize_pair(student, teacher, "student")
        return dict(student=student, teacher=teacher)

    @torch.no_grad()
    def teacher_masks(self, batch: Batch, rois: Tensor) -> Tensor:
        """Return the teacher's mask logits (P, C, h, w) of boxes (P, 5): index of the image, x1, y1, x2, y2."""
        head: Any = find_module(batch.teacher.model, "roi_head")
        stage = [] if self.stages["teacher"] is None else [self.stages["teacher"]]
        masks: Tensor = head._mask_forward(*stage, batch.teacher_neck(), rois.detach())["mask_preds"]
        return masks


def _of_class(masks: Tensor, labels: Tensor) -> Tensor:
    """Choose the mask of each proposal's class: (P, C, h, w) -> (P, 1, h, w).

    >>> _of_class(torch.arange(4.0).reshape(2, 2, 1, 1), torch.tensor([1, 0])).flatten()
    tensor([1., 2.])
    """
    if masks.shape[1] == 1:
        return masks
    return masks[torch.arange(len(masks), device=masks.device), labels][:, None]
