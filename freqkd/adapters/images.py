"""Class logits of image classifiers, with the labels of the images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from freqkd.adapters.base import Batch, HeadAdapter


class ImageLogits(HeadAdapter):
    """Hand the class logits of images, and the images' labels, to a logit loss.

    For losses that read labels, as DKD and NKD do; others need no adapter. The label of an image is its sample's `gt_label`,
    one whole number, as a tensor of one element: that of mmpretrain's `DataSample`, or of any `BaseDataElement`.

    Shape:
        Logits: (N, C). Labels: (N,).

    Raises:
        ValueError: on use, the tap gave more than one tensor, or one that is not (N, C); a sample has no label, or several.

    Config::

        loss_dkd=dict(
            type='freqkd.DistillTerm', student_tap='head', adapter=dict(type='freqkd.ImageLogits'),
            loss=dict(type='freqkd.LogitLoss', softening=dict(type='fixed', tau=4.0), divergence=dict(type='dkd')))
    """

    reads_logits = True

    def __call__(self, student_feats: list[Tensor], teacher_feats: list[Tensor], batch: Batch) -> dict[str, Any]:
        """Return `student` and `teacher` logits (N, C) and `target` (N,)."""
        logits = {}
        for owner, found in (("student", student_feats), ("teacher", teacher_feats)):
            if len(found) != 1 or found[0].dim() != 2:
                raise ValueError(
                    f"ImageLogits takes the class logits (N, C) of images, got {[tuple(one.shape) for one in found]} from the "
                    f"{owner}; tap the last linear layer"
                )
            logits[owner] = found[0]
        labels = [image_label(sample) for sample in batch.data_samples or ()]
        target = torch.tensor(labels, dtype=torch.long, device=logits["student"].device)
        return dict(logits, target=target)


def image_label(sample: Any) -> int:
    """Return the label of a sample.

    Raises:
        ValueError: it has none, or several.

    >>> from mmengine.structures import BaseDataElement
    >>> image_label(BaseDataElement(gt_label=torch.tensor([2])))
    2
    """
    label = getattr(sample, "gt_label", None)
    if not isinstance(label, Tensor) or label.numel() != 1:
        raise ValueError(
            f"data_samples must have one label each, gt_label=torch.tensor(2), for ImageLogits, got {label!r}; set it where "
            "the pipeline packs the sample"
        )
    return int(label)
