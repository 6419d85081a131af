"""Logits of a segmentation head, with the labels of their positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqkd.adapters.base import Batch, HeadAdapter
from freqkd.adapters.classes import build_shared
from freqkd.adapters.heads import HeadKind, check_activation, describe_head, find_head
from freqkd.adapters.panoptic import head_labels, label_map
from freqkd.align import resize_pair
from freqkd.losses.logits.loss import LogitLoss
from freqkd.utils.checks import LONGEST, check_choice, check_whole

RESIZE_CHOICES = ("labels", "logits")
IGNORED = 255  # what mmseg's heads ignore unless told otherwise


class SegLogits(HeadAdapter):
    """Hand a tapped logit map, e.g. of `decode_head.conv_seg`, and the ground truth to a logit loss.

    The logits of a head are smaller than the image. Either the labels are resized to the logits ("labels": nearest; cheap),
    or the logits to the labels ("logits": bilinear; every pixel counts, as in cross entropy, at many times the cost). A
    teacher's map of another size is resized to the student's.

    Labels are those of the data pipeline, after `reduce_zero_label` where it has it. They are given to losses that need them
    (`needs_target`), which leave out positions with the label `ignore_index`: a `LogitLoss` that reads labels without one
    takes the student head's.

    A head with one channel (`num_classes=2, out_channels=1`) is a sigmoid one: divergence "binary_kl", "quality_focal", "mse"
    or "dist". Its channel is the foreground, label 1 in the data, which is class 0 of the loss; the data's label 0 becomes the
    background of a sigmoid head, 1. Weights of the classes are in this order.

    Args:
        resize: "labels" or "logits".
        ignore_index: label of every position of an image without ground truth; None: the loss's, else the student head's, else
            255.
        classes: None where both networks have the same classes in the same order. "shared": the classes that both have by name,
            as `freqkd train` finds them in the data and in the teacher's checkpoint; or pairs of indices (student, teacher).
            The softmax then runs over these alone; positions with another label are ignored.

    Raises:
        ValueError: `resize` is neither; a loss for the other kind of head; on use, the tap gave more than one map, or a map
            that is not the head's logits.

    Config::

        loss_kd=dict(
            type='freqkd.DistillTerm', student_tap='decode_head.conv_seg', adapter=dict(type='freqkd.SegLogits'),
            loss=dict(type='freqkd.LogitLoss', softening='fixed', divergence='kl', ignore_index=255))
    """

    reads_logits = True

    def __init__(
        self,
        resize: str = "labels",
        ignore_index: int | None = None,
        classes: str | Sequence[Sequence[int]] | None = None,
    ) -> None:
        check_choice("resize", resize, RESIZE_CHOICES)
        if ignore_index is not None:
            check_whole("ignore_index", ignore_index, -LONGEST)
        self.resize, self.ignore_index = resize, ignore_index
        self.shared = build_shared(classes)
        self._ignored = IGNORED if ignore_index is None else ignore_index
        self._heads: dict[str, HeadKind | None] = {}

    def check_head(self, network: nn.Module, path: str, loss: nn.Module, owner: str) -> None:
        """Check that a logit loss is for a network's head, and read what the head says."""
        kind = describe_head(network, path)
        check_activation(find_head(network, path), loss, owner)
        self._heads[owner] = kind if isinstance(loss, LogitLoss) else None
        own = None if kind is None else kind.ignore_index
        if owner == "student":
            if isinstance(loss, LogitLoss) and loss.ignore_index is None:
                if self.shared is not None:
                    loss.ignore_index = IGNORED if own is None else own
                elif loss.needs_target:
                    loss.ignore_index = own
            known = (self.ignore_index, getattr(loss, "ignore_index", None), own, IGNORED)
            self._ignored = next(label for label in known if label is not None)
            renumbered = 2 if kind is not None and kind.binary else 0 if self.shared is None else len(self.shared)
            if 0 <= self._ignored < renumbered:
                raise ValueError(
                    f"ignore_index must not be one of the {renumbered} labels that the loss compares, got {self._ignored}: "
                    "labels are renumbered here; set ignore_index=255 in the head and in the loss, and reduce_zero_label in "
                    "the data where its label 0 is to be left out"
                )

    def __call__(self, student_feats: list[Tensor], teacher_feats: list[Tensor], batch: Batch) -> dict[str, Any]:
        """Return `student` and `teacher` logits (N, C, h, w) and `target` (N, h, w)."""
        if len(student_feats) != 1 or len(teacher_feats) != 1:
            raise ValueError(
                f"SegLogits takes the one logit map of a head, got {len(student_feats)} student and {len(teacher_feats)} "
                "teacher maps; tap its classifier, e.g. 'decode_head.conv_seg'"
            )
        student, teacher = student_feats[0], teacher_feats[0]
        for owner, logits in (("student", student), ("teacher", teacher)):
            self._check_logits(logits, owner)
        labels = head_labels(batch.student, segmentation_labels(batch.data_samples, self._ignored, batch.inputs))
        if self.shared is not None:
            student = self.shared.select(student, "student", background=False)
            teacher = self.shared.select(teacher, "teacher", background=False)
            labels = self.shared.relabel(labels, self._ignored)
        kind = self._heads.get("student")
        if kind is not None and kind.binary:
            labels = torch.where((labels == 0) | (labels == 1), 1 - labels, labels)
        if self.resize == "logits":
            student, _ = resize_pair(student, labels[:, None], "teacher")
        else:
            labels = F.interpolate(labels[:, None].float(), size=student.shape[-2:], mode="nearest-exact")[:, 0].long()
        student, teacher = resize_pair(student, teacher, "student")
        return dict(student=student, teacher=teacher, target=labels)

    def _check_logits(self, logits: Tensor, owner: str) -> None:
        kind = self._heads.get(owner)
        if kind is not None and kind.channels not in (None, logits.shape[1]):
            raise ValueError(
                f"the {owner}'s map must be the {kind.channels} class logits of its {kind.name}, got {logits.shape[1]} "
                "channels; tap its classifier, e.g. 'decode_head.conv_seg'"
            )


def segmentation_labels(data_samples: Any, ignore_index: int, inputs: Tensor) -> Tensor:
    """Stack the label maps of a batch, (N, H, W); every position of an image without one has the label `ignore_index`.

    >>> segmentation_labels([object()], 255, torch.zeros(1, 3, 1, 2))
    tensor([[[255, 255]]])
    """
    maps = []
    for sample in data_samples:
        truth = getattr(sample, "gt_sem_seg", None)
        known = torch.full(inputs.shape[-2:], ignore_index) if truth is None else label_map(truth)
        maps.append(known.reshape(known.shape[-2:]).long().to(inputs.device))
    return torch.stack(maps)
