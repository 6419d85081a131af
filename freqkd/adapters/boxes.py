"""Ground-truth boxes for feature losses that tell objects from background."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from freqkd.checks import check_choice
from freqkd.distillers.batch import Batch

EXTENT_CHOICES = ("padded", "image")


class GroundTruthBoxes:
    """Pass tapped maps on, with the boxes of the batch's objects and the size that the boxes are scaled by.

    A batch is padded to one size, and its maps show the padding too. `padded` scales every box by that size, so that a box
    lands on its object; `image` by each image's own size before padding, as the released program of FGD does, which
    stretches the boxes of padded images.

    Args:
        extent: "padded" or "image".

    Raises:
        ValueError: `extent` is another word; on use, samples without `gt_instances.bboxes`.

    Config::

        loss_fgd=dict(
            type='freqkd.DistillTerm', student='neck', adapter=dict(type='freqkd.GroundTruthBoxes'),
            loss=dict(type='freqkd.FGDLoss', channels=256, num_levels=5))
    """

    student_taps: tuple[str, ...] = ()
    teacher_taps: tuple[str, ...] = ()
    asks_teacher = False

    def __init__(self, extent: str = "padded") -> None:
        check_choice("extent", extent, EXTENT_CHOICES)
        self.extent = extent

    def __call__(self, student: list[Tensor], teacher: list[Tensor], batch: Batch) -> dict[str, Any]:
        """Return `student_feats`, `teacher_feats`, `boxes` (B, 4) and `image_sizes` (height, width) of each image."""
        boxes, sizes = [], []
        for index, sample in enumerate(batch.data_samples):
            found = getattr(getattr(sample, "gt_instances", None), "bboxes", None)
            if found is None:
                raise ValueError(
                    f"data_samples[{index}] must have gt_instances with bboxes, got {type(sample).__name__} without: "
                    "GroundTruthBoxes is for detectors; on segmentation take a loss without boxes"
                )
            boxes.append(found if isinstance(found, Tensor) else found.tensor)  # mmdet's HorizontalBoxes
            shown = batch.inputs.shape[-2:] if self.extent == "padded" else sample.metainfo["img_shape"][:2]
            sizes.append(tuple(int(length) for length in shown))
        return dict(student_feats=student, teacher_feats=teacher, boxes=boxes, image_sizes=sizes)
