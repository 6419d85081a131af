"""Ground-truth boxes for feature losses that separate objects from background."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from freqkd.adapters.base import Batch, HeadAdapter
from freqkd.utils.checks import check_choice

EXTENT_CHOICES = ("padded", "image")


class GroundTruthBoxes(HeadAdapter):
    """Hand the tapped maps to the loss, with the boxes of the batch's objects and the sizes that the boxes are scaled by.

    A batch is padded to one size, and its maps include the padding. "padded" scales every box by that size, so that a box
    lies on its object. "image" scales by each image's own size before padding, as the released program of FGD does, which
    stretches the boxes of padded images.

    Args:
        extent: "padded" or "image".

    Raises:
        ValueError: `extent` is neither; on use, samples without `gt_instances.bboxes`.

    Config::

        loss_fgd=dict(
            type='freqkd.DistillTerm', student_tap='neck', adapter=dict(type='freqkd.GroundTruthBoxes'),
            loss=dict(type='freqkd.FGDLoss', channels=256, num_levels=5))
    """

    compares_classes = False

    def __init__(self, extent: str = "padded") -> None:
        check_choice("extent", extent, EXTENT_CHOICES)
        self.extent = extent

    def __call__(self, student_feats: list[Tensor], teacher_feats: list[Tensor], batch: Batch) -> dict[str, Any]:
        """Return `student_feats`, `teacher_feats`, `boxes` (B, 4) and `image_sizes` (height, width) of each image."""
        boxes, sizes = [], []
        for index, sample in enumerate(batch.data_samples):
            found = getattr(getattr(sample, "gt_instances", None), "bboxes", None)
            if found is None:
                raise ValueError(
                    f"data_samples[{index}] must have gt_instances with bboxes, got {type(sample).__name__} without; "
                    "GroundTruthBoxes is for detectors: use a loss without boxes on segmentation"
                )
            boxes.append(found if isinstance(found, Tensor) else found.tensor)  # mmdet's HorizontalBoxes
            shown = batch.inputs.shape[-2:] if self.extent == "padded" else sample.metainfo["img_shape"][:2]
            sizes.append(tuple(int(length) for length in shown))
        return dict(student_feats=student_feats, teacher_feats=teacher_feats, boxes=boxes, image_sizes=sizes)
