"""Fidelity of a student: how far its predictions agree with those of its teacher."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST_SCORE = 0.3  # score from which a detection of the teacher counts as an object
Prediction = NDArray[Any]  # label map (height, width), or detections (number, 6): x1, y1, x2, y2, score, label


def predictions(samples: Sequence[Any]) -> list[Prediction]:
    """Return the label maps or the detections of samples that a segmenter or a detector has filled.

    Args:
        samples: of mmdet or mmseg; those with neither are left out.
    """
    found: list[Prediction] = []
    for sample in samples:
        if "pred_sem_seg" in sample:
            found.append(sample.pred_sem_seg.data.cpu().numpy().astype(np.uint16)[0])
        elif "bboxes" in sample.get("pred_instances", {}):
            boxes, scores, labels = (sample.pred_instances[key].cpu() for key in ("bboxes", "scores", "labels"))
            boxes = getattr(boxes, "tensor", boxes).numpy()
            found.append(np.column_stack([boxes, scores.numpy(), labels.numpy()]).astype(np.float32))
    return found


def fidelity(student: Sequence[Prediction], teacher: Sequence[Prediction]) -> float | None:
    """Return the agreement of a student's predictions with its teacher's.

    Of segmenters it is the share of pixels with the same label, over all images; of detectors the box AP (COCO's, IoU 0.5 to
    0.95) of the student where the teacher's detections with a score of 0.3 or more are the objects.

    Args:
        student, teacher: of the same images in the same order.

    Returns:
        None where there are no images, or the teacher has no detection with such a score.

    References:
        Stanton et al. 2021, Does Knowledge Distillation Really Work? (arXiv:2106.05945), section 3: average top-1 agreement of
        classifiers, which is the share of pixels here. That of detectors is ours.

    >>> sky_and_road = np.array([[0, 0], [1, 1]], np.uint16)
    >>> fidelity([sky_and_road], [np.array([[0, 0], [1, 0]], np.uint16)])
    0.75
    >>> car = np.array([[10, 10, 50, 30, 0.9, 0]], np.float32)
    >>> round(fidelity([car], [car]), 6), fidelity([car[:0]], [car]), fidelity([car], [car[:0]])
    (1.0, 0.0, None)
    """
    pairs = list(zip(student, teacher, strict=True))
    if not pairs:
        return None
    if pairs[0][1].dtype == np.uint16:
        same = sum(int(np.count_nonzero(own == other)) for own, other in pairs)
        return same / sum(other.size for _, other in pairs)
    return _box_ap(student, [boxes[boxes[:, 4] >= np.float32(LEAST_SCORE)] for boxes in teacher])


def _box_ap(detections: Sequence[Prediction], objects: Sequence[Prediction]) -> float | None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    given = _as_coco(objects)
    known = {entry["category_id"] for entry in given}
    found = [entry for entry in _as_coco(detections) if entry["category_id"] in known]
    if not given or not found:
        return 0.0 if given else None
    truth = COCO()
    truth.dataset = dict(
        info={},
        images=[dict(id=image) for image in range(len(objects))],
        annotations=given,
        categories=[dict(id=label) for label in sorted(known)],
    )
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints as it goes
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def _as_coco(images: Sequence[Prediction]) -> list[dict[str, Any]]:
    """Return detections, or the teacher's as objects, as COCO writes them."""
    return [
        dict(
            id=1 + place,  # 0 is no match to COCOeval
            image_id=image,
            category_id=int(label),
            bbox=[x1, y1, x2 - x1, y2 - y1],
            area=(x2 - x1) * (y2 - y1),
            iscrowd=0,
            score=score,
        )
        for place, (image, (x1, y1, x2, y2, score, label)) in enumerate(
            (image, box) for image, boxes in enumerate(images) for box in boxes.tolist()
        )
    ]
