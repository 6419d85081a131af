"""Logits of a segmentation head, with the labels of their positions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from freqkd.adapters.base import Batch, HeadAdapter
from freqkd.align import resize_pair
from freqkd.utils.checks import LONGEST, check_choice, check_whole

RESIZE_CHOICES = ("labels", "logits")


class SegLogits(HeadAdapter):
    """Hand a tapped logit map, e.g. of `decode_head.conv_seg`, and the ground truth to a logit loss.

    The logits of a head are smaller than the image. Either the labels are resized to the logits ("labels": nearest; cheap),
    or the logits to the labels ("logits": bilinear; every pixel counts, as in cross entropy, at many times the cost). A
    teacher's map of another size is resized to the student's.

    Labels are given to losses that need them (`needs_target`); a loss with the same `ignore_index` leaves out positions
    with that label.

    Args:
        resize: "labels" or "logits".
        ignore_index: label of every position of an image without ground truth.

    Raises:
        ValueError: `resize` is neither; on use, the tap gave more than one map.

    Config::

        loss_kd=dict(
            type='freqkd.DistillTerm', student_tap='decode_head.conv_seg', adapter=dict(type='freqkd.SegLogits'),
            loss=dict(type='freqkd.LogitLoss', softening='fixed', divergence='kl', ignore_index=255))
    """

    def __init__(self, resize: str = "labels", ignore_index: int = 255) -> None:
        check_choice("resize", resize, RESIZE_CHOICES)
        check_whole("ignore_index", ignore_index, -LONGEST)
        self.resize, self.ignore_index = resize, ignore_index

    def __call__(self, student_feats: list[Tensor], teacher_feats: list[Tensor], batch: Batch) -> dict[str, Any]:
        """Return `student` and `teacher` logits (N, C, h, w) and `target` (N, h, w)."""
        if len(student_feats) != 1 or len(teacher_feats) != 1:
            raise ValueError(
                f"SegLogits takes the one logit map of a head, got {len(student_feats)} student and {len(teacher_feats)} "
                "teacher maps; tap its classifier, e.g. 'decode_head.conv_seg'"
            )
        student, teacher = student_feats[0], teacher_feats[0]
        labels = segmentation_labels(batch.data_samples, self.ignore_index, batch.inputs)
        if self.resize == "logits":
            student, _ = resize_pair(student, labels[:, None], "teacher")
        else:
            labels = F.interpolate(labels[:, None].float(), size=student.shape[-2:], mode="nearest-exact")[:, 0].long()
        student, teacher = resize_pair(student, teacher, "student")
        return dict(student=student, teacher=teacher, target=labels)


def segmentation_labels(data_samples: Any, ignore_index: int, inputs: Tensor) -> Tensor:
    """Stack the label maps of a batch, (N, H, W); every position of an image without one has the label `ignore_index`.

    >>> segmentation_labels([object()], 255, torch.zeros(1, 3, 1, 2))
    tensor([[[255, 255]]])
    """
    maps = []
    for sample in data_samples:
        truth = getattr(sample, "gt_sem_seg", None)
        known = torch.full(inputs.shape[-2:], ignore_index) if truth is None else truth.data
        maps.append(known.reshape(known.shape[-2:]).long().to(inputs.device))
    return torch.stack(maps)
