"""Heads that predict box distributions (GFL): what LD and BCKD compare, with the targets of the head's own assigner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor

from freqkd.checks import check_flag
from freqkd.distillers.batch import Batch
from freqkd.losses import valuable_region

TAPS = ("bbox_head.gfl_cls", "bbox_head.gfl_reg")


@dataclass(frozen=True)
class Targets:
    """What a head's assigner made of a batch.

    Attributes:
        labels: of each level, (N, H * W * A): positions in order, anchors within a position.
        label_weights: likewise; 0 where an anchor does not count.
        anchors: (sum of H * W * A, 4), x1 y1 x2 y2.
        num_level_anchors: their number on each level.
        valid: (N, sum of H * W * A): whether an anchor stands on its image, and not on what pads the batch.
        positives: number of positive anchors of the batch, as the head counts them, averaged over processes.
    """

    labels: list[Tensor]
    label_weights: list[Tensor]
    anchors: Tensor
    num_level_anchors: list[int]
    valid: Tensor
    positives: Tensor


def assign_targets(head: Any, maps: list[Tensor], data_samples: Any) -> Targets:
    """Let an anchor head (RetinaNet, ATSS, GFL) assign its own targets to maps of these sizes.

    Args:
        head: the student's `bbox_head`; its `get_anchors` and `get_targets` are called.
        maps: one map per level, for the sizes.
        data_samples: the batch's samples, with `gt_instances`.
    """
    metas = [sample.metainfo for sample in data_samples]
    anchors, flags = head.get_anchors([level.shape[-2:] for level in maps], metas, device=maps[0].device)
    # Before the head joins the levels of these lists in place.
    counts, flat = [len(level) for level in anchors[0]], torch.cat(list(anchors[0]))
    valid = torch.stack([torch.cat(list(levels)) for levels in flags])
    truths = [sample.gt_instances for sample in data_samples]
    ignored = [getattr(sample, "ignored_instances", None) for sample in data_samples]
    # RetinaNet's answer has five parts, that of ATSS and GFL the anchors in front of them.
    labels, label_weights, _, _, positives = head.get_targets(
        anchors, flags, truths, batch_img_metas=metas, batch_gt_instances_ignore=ignored
    )[-5:]
    count = torch.tensor(float(positives), device=maps[0].device)
    if get_world_size() > 1:
        all_reduce(count, op="mean")
    return Targets(list(labels), list(label_weights), flat, counts, valid, count)


def _scaled(head: Any, maps: list[Tensor]) -> list[Tensor]:
    """Multiply the raw distributions of each level by the head's learnt scale, as the head does after the tap."""
    return [scale(level) for scale, level in zip(head.scales, maps, strict=True)]


class _Distributions:
    """Base: both networks' class logits and box distributions on every level."""

    student_taps: tuple[str, ...] = TAPS
    teacher_taps: tuple[str, ...] = TAPS
    asks_teacher = False

    def maps(self, batch: Batch) -> dict[str, list[Tensor]]:
        """Return `cls_student`, `reg_student`, `cls_teacher`, `reg_teacher`."""
        ours: Any = batch.student.bbox_head
        theirs: Any = batch.teacher.model.bbox_head
        (cls_s, reg_s), (cls_t, reg_t) = [[found[path] for path in TAPS] for found in (batch.seen, batch.taught)]
        with torch.no_grad():
            reg_t = _scaled(theirs, reg_t)
        return dict(cls_student=cls_s, reg_student=_scaled(ours, reg_s), cls_teacher=cls_t, reg_teacher=reg_t)


def _region(targets: Targets, valid: Tensor, boxes: Tensor) -> Tensor:
    """Return one image's valuable region; anchors on the padding of the batch are neither in it nor candidates."""
    counts = [int(level.sum()) for level in valid.split(targets.num_level_anchors)]
    region = targets.anchors.new_zeros(len(valid))
    region[valid] = valuable_region(targets.anchors[valid], counts, boxes)
    return region


class LDTargets(_Distributions):
    """Hand a GFL head's predictions, labels and valuable localisation region to `LDLoss`.

    The term's own tap, where a share is measured, may be the neck: class and box maps are tapped beside it.

    Args:
        region: whether the valuable localisation region is computed; without it that term is 0.

    Config::

        loss_ld=dict(
            type='freqkd.DistillTerm', student='neck', adapter=dict(type='freqkd.LDTargets'),
            loss=dict(type='freqkd.LDLoss'))
    """

    def __init__(self, region: bool = True) -> None:
        check_flag("region", region)
        self.region = region

    def __call__(self, student: list[Tensor], teacher: list[Tensor], batch: Batch) -> dict[str, Any]:
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

    def __call__(self, student: list[Tensor], teacher: list[Tensor], batch: Batch) -> dict[str, Any]:
        """Return the arguments of `BCKDLoss`."""
        found: dict[str, Any] = dict(self.maps(batch))
        targets = assign_targets(batch.student.bbox_head, found["cls_student"], batch.data_samples)
        weights = torch.cat([level.reshape(-1) for level in targets.label_weights])
        return {**found, "label_weights": weights, "avg_factor": targets.positives}
