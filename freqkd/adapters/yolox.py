"""Objectness of YOLOX heads, and class logits weighted by it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from freqkd.adapters.base import Batch, HeadAdapter
from freqkd.adapters.heads import check_loss
from freqkd.utils.checks import check_choice

HEAD = "bbox_head"
PART_CHOICES = ("objectness", "classes")


class YOLOXLogits(HeadAdapter):
    """Hand the objectness of both networks' YOLOX heads to a logit loss, or their class logits, weighted by it.

    A YOLOX head says at every position whether there is an object, and of which class it would be; the class logits are
    trained where there is one, and mean nothing elsewhere. "classes" therefore counts a position by the teacher's
    objectness. For both, add two terms. The whole head is tapped in addition to the term's own tap, where gradients are
    measured, e.g. the neck.

    Args:
        part: "objectness" or "classes".

    Shape:
        Logits of a level: (N, 1, h, w) or (N, C, h, w). Weights: (N, h, w), in [0, 1].

    Raises:
        ValueError: `part` is neither; another kind of head; a loss for softmax heads.

    References:
        Mehta and Ozturk, arXiv 1805.06361: class and box distillation scaled by the teacher's objectness. Differs: its
        squared errors of probabilities are the loss's choice here, and boxes are left out.

    Config::

        loss_objectness=dict(
            type='freqkd.DistillTerm', student_tap='neck', adapter=dict(type='freqkd.YOLOXLogits'),
            loss=dict(type='freqkd.LogitLoss', divergence='binary_kl', activation='sigmoid'))
    """

    student_taps = teacher_taps = (HEAD,)
    reads_logits = True

    def __init__(self, part: str = "objectness") -> None:
        check_choice("part", part, PART_CHOICES)
        self.part = part
        self.compares_classes = part == "classes"

    def check_head(self, network: nn.Module, path: str, loss: nn.Module, owner: str) -> None:
        """Check that a network has a YOLOX head, and that the loss is for independent logits."""
        head = getattr(network, HEAD, None)
        if not hasattr(head, "multi_level_conv_obj"):
            raise ValueError(
                f"the {owner} must have a YOLOX head, whose levels have objectness, got {type(head or network).__name__}; use "
                "the adapter of its kind of head"
            )
        check_loss(loss, "sigmoid", f"objectness and classes of the {owner}'s {type(head).__name__} are independent")

    def __call__(self, student_feats: list[Tensor], teacher_feats: list[Tensor], batch: Batch) -> dict[str, Any]:
        """Return `student` and `teacher` logits of every level; and `weight` for the classes."""
        classes, objectness = _split(batch.student_feats[HEAD])
        teacher_classes, teacher_objectness = _split(batch.teacher_feats[HEAD])
        if self.part == "objectness":
            return dict(student=objectness, teacher=teacher_objectness)
        with torch.no_grad():
            weight = [level[:, 0].sigmoid() for level in teacher_objectness]
        return dict(student=classes, teacher=teacher_classes, weight=weight)


def _split(maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the class logits and the objectness of all levels; between them, a head returns the boxes."""
    count = len(maps) // 3
    return maps[:count], maps[2 * count :]
