"""Logits of a segmentation head, with the labels of their positions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from freqkd.checks import LONGEST, check_choice, check_whole
from freqkd.distillers.batch import Batch

RESIZE_CHOICES = ("labels", "logits")


class SegLogits:
    """Hand a tapped logit map, e.g. of `decode_head.conv_seg`, and the ground truth to a logit loss.

    Heads work at a fraction of the image's size. Either the labels come down to the logits (nearest: cheap, and what
    CWD and DIST do without labels), or the logits go up to the labels (bilinear: every pixel counts, as in cross
    entropy, at many times the cost). A teacher's map of another size is resized to the student's.

    Labels are given to losses that ask for them (`needs_target`); positions labelled `ignore_index` are dropped by a loss
    with the same `ignore_index`.

    Args:
        resize: "labels" or "logits".
        ignore_index: label of images without ground truth.

    Raises:
        ValueError: `resize` is another word; on use, the tap gave more than one map.

    Config::

        loss_kd=dict(
            type='freqkd.DistillTerm', student='decode_head.conv_seg', adapter=dict(type='freqkd.SegLogits'),
            loss=dict(type='freqkd.LogitLoss', softening='fixed', divergence='kl', ignore_index=255))
    """

    student_taps: tuple[str, ...] = ()
    teacher_taps: tuple[str, ...] = ()
    asks_teacher = False

    def __init__(self, resize: str = "labels", ignore_index: int = 255) -> None:
        check_choice("resize", resize, RESIZE_CHOICES)
        check_whole("ignore_index", ignore_index, -LONGEST)
        self.resize, self.ignore_index = resize, ignore_index

    def __call__(self, student: list[Tensor], teacher: list[Tensor], batch: Batch) -> dict[str, Any]:
        """Return `student` and `teacher` logits (N, C, h, w) and `target` (N, h, w)."""
        if len(student) != 1 or len(teacher) != 1:
            raise ValueError(
                f"SegLogits takes the one logit map of a head, got {len(student)} student and {len(teacher)} teacher maps; "
                "tap its classifier, e.g. 'decode_head.conv_seg'"
            )
        ours, theirs = student[0], teacher[0]
        labels = segmentation_labels(batch.data_samples, self.ignore_index, batch.inputs)
        if self.resize == "logits":
            ours = _resize(ours, labels.shape[-2:])
        else:
            labels = F.interpolate(labels[:, None].float(), size=ours.shape[-2:], mode="nearest-exact")[:, 0].long()
        return dict(student=ours, teacher=_resize(theirs, ours.shape[-2:]), target=labels)


def _resize(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    same = tuple(x.shape[-2:]) == tuple(size)
    return x if same else F.interpolate(x.float(), size=tuple(size), mode="bilinear", align_corners=False)


def segmentation_labels(data_samples: Any, ignore_index: int, inputs: Tensor) -> Tensor:
    """Stack the label maps of a batch, (N, H, W); an image without one counts as ignored throughout.

    >>> segmentation_labels([object()], 255, torch.zeros(1, 3, 1, 2))
    tensor([[[255, 255]]])
    """
    size = inputs.shape[-2:]
    maps = []
    for sample in data_samples:
        known = getattr(sample, "gt_sem_seg", None)
        unknown = torch.full(size, ignore_index, dtype=torch.long)
        maps.append((unknown if known is None else known.data.reshape(known.data.shape[-2:]).long()).to(inputs.device))
    return torch.stack(maps)
