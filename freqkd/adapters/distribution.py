"""Class logits and box distributions of GFL heads, with the targets of the student's assigner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from freqkd.adapters.base import Batch, HeadAdapter
from freqkd.losses import valuable_region
from freqkd.utils.checks import check_flag
from freqkd.utils.processes import mean_over_processes

TAPS = ("bbox_head.gfl_cls", "bbox_head.gfl_reg")


@dataclass(frozen=True)
class Targets:
    """The targets that a head assigns to its anchors in a batch.

    Attributes:
        labels: of each level, (N, H * W * A), ordered by position, then by anchor.
        label_weights: of each level, (N, H * W * A); 0 where an anchor does not count.
        anchors: (sum of H * W * A, 4), x1 y1 x2 y2.
        num_level_anchors: their number on each level.
        valid: (N, sum of H * W * A), whether an anchor lies on its image, and not on the padding of the batch.
        positives: number of positive anchors of the batch, as counted by the head, averaged over processes.
    """

    labels: list[Tensor]
    label_weights: list[Tensor]
    anchors: Tensor
    num_level_anchors: list[int]
    valid: Tensor
    positives: Tensor


def assign_targets(head: Any, maps: list[Tensor], data_samples: Any) -> Targets:
    """Return the targets that an anchor head (RetinaNet, ATSS, GFL) assigns to maps of these sizes.

    Args:
        head: the student's `bbox_head`; its `get_anchors` and `get_targets` are called.
        maps: one map per level, for the sizes.
        data_samples: the batch's samples, with `gt_instances`.

    Raises:
        ValueError: another number of maps than the head has levels.
    """
    known = len(head.prior_generator.strides)
    if len(maps) != known:
        raise ValueError(
            f"the student's head assigns targets on all of its {known} levels together, got maps of {len(maps)}; leave out "
            "student_levels and teacher_levels"
        )
    metas = [sample.metainfo for sample in data_samples]
    anchors, flags = head.get_anchors([level.shape[-2:] for level in maps], metas, device=maps[0].device)
    # Read before `get_targets`, which joins the levels of these lists in place.
    counts, flat = [len(level) for level in anchors[0]], torch.cat(list(anchors[0]))
    valid = torch.stack([torch.cat(list(levels)) for levels in flags])
    truths = [sample.gt_instances for sample in data_samples]
    ignored = [getattr(sample, "ignored_instances", None) for sample in data_samples]
    # RetinaNet returns five values; ATSS and GFL return the anchors before them.
    labels, label_weights, _, _, positives = head.get_targets(
        anchors, flags, truths, batch_img_metas=metas, batch_gt_instances_ignore=ignored
    )[-5:]
    count = mean_over_processes(positives, maps[0].device)
    return Targets(list(labels), list(label_weights), flat, counts, valid, count)


def _scaled(head: Any, maps: list[Tensor]) -> list[Tensor]:
    """Multiply each level's raw distributions by the head's learnt scale, as the head does after the tapped module."""
    return [scale(level) for scale, level in zip(head.scales, maps, strict=True)]


class _Distributions(HeadAdapter):
    """Base: both networks' class logits and box distributions on every level."""

    student_taps = teacher_taps = TAPS
    reads_logits = True

    def maps(self, batch: Batch) -> dict[str, list[Tensor]]:
        """Return `cls_student`, `reg_student`, `cls_teacher`, `reg_teacher`."""
        cls_student, reg_student = (batch.student_feats[path] for path in TAPS)
        cls_teacher, reg_teacher = (batch.teacher_feats[path] for path in TAPS)
        with torch.no_grad():
            reg_teacher = _scaled(batch.teacher.model.bbox_head, reg_teacher)
        reg_student = _scaled(batch.student.bbox_head, reg_student)
        return dict(cls_student=cls_student, reg_student=reg_student, cls_teacher=cls_teacher, reg_teacher=reg_teacher)


def _region(targets: Targets, valid: Tensor, boxes: Tensor) -> Tensor:
    """Return the valuable region of one image, computed without the anchors on the padding, which are 0 in it."""
    counts = [int(level.sum()) for level in valid.split(targets.num_level_anchors)]
    region = targets.anchors.new_zeros(len(valid))
    region[valid] = valuable_region(targets.anchors[valid], counts, boxes)
    return region


class LDTargets(_Distributions):
    """Hand a GFL head's predictions, labels and valuable localisation region to `LDLoss`.

    Class and box maps are tapped in addition to the term's own tap, where gradients are measured, e.g. the neck.

    Args:
        region: whether the valuable localisation region is computed; without it, the loss's term for it is 0.

    Config::

        loss_ld=dict(
            type='freqkd.DistillTerm', student_tap='neck', adapter=dict(type='freqkd.LDTargets'),
            loss=dict(type='freqkd.LDLoss'))
    """

    def __init__(self, region: bool = True) -> None:
        check_flag("region", region)
        self.region = region

    def __call__(self, student_feats: list[Tensor], teacher_feats: list[Tensor], batch: Batch) -> dict[str, Any]:
        """Return the arguments of `LDLoss`."""
        found: dict[str, Any] = dict(self.maps(batch))
        targets = assign_targets(batch.student.bbox_head, found["cls_student"], batch.data_samples)
        found.update(labels=targets.labels, label_weights=targets.label_weights)
        if self.region:
            truths = [sample.gt_instances.bboxes for sample in batch.data_samples]
            images = [_region(targets, valid, boxes) for valid, boxes in zip(targets.valid, truths, strict=True)]
            found["vlr_region"] = list(torch.stack(images).split(targets.num_level_anchors, dim=1))
        return found


class BCKDTargets(_Distributions):
    """Hand a GFL head's predictions, label weights and number of positives to `BCKDLoss`; see `LDTargets`."""

    def __call__(self, student_feats: list[Tensor], teacher_feats: list[Tensor], batch: Batch) -> dict[str, Any]:
        """Return the arguments of `BCKDLoss`."""
        found: dict[str, Any] = dict(self.maps(batch))
        targets = assign_targets(batch.student.bbox_head, found["cls_student"], batch.data_samples)
        weights = torch.cat([level.reshape(-1) for level in targets.label_weights])
        return {**found, "label_weights": weights, "avg_factor": targets.positives}
