"""Crops of the boxes of a detection data set, one image for each object, and the metric of their classes."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from mmengine.registry import DATASETS, METRICS, TRANSFORMS
from mmengine.structures import BaseDataElement


@DATASETS.register_module()
class BoxCrops(BaseDataset):
    """The boxes of annotations in COCO's format, each as an image of its own with the class of the box.

    Args:
        per_class: the largest number of boxes of one class; the first in the file are taken.
        options: as for every `BaseDataset`: `ann_file`, `data_root`, `data_prefix`, `metainfo`, `pipeline`.
    """

    def __init__(self, *, per_class: int = 300, **options: Any) -> None:
        self.per_class = per_class
        super().__init__(**options)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return file, box (x, y, width, height) and class of every crop."""
        with open(self.ann_file) as file:
            content = json.load(file)
        names = {category["id"]: category["name"] for category in content["categories"]}
        images = {image["id"]: image["file_name"] for image in content["images"]}
        labels = {name: label for label, name in enumerate(self.metainfo["classes"])}
        found: list[dict[str, Any]] = []
        counts: Counter[int] = Counter()
        for box in content["annotations"]:
            label = labels[names[box["category_id"]]]
            if counts[label] < self.per_class:
                counts[label] += 1
                path = os.path.join(self.data_prefix["img"], images[box["image_id"]])
                found.append(dict(img_path=path, bbox=box["bbox"], label=label))
        return found


@TRANSFORMS.register_module()
class LoadCrop:
    """Read an image, cut the box out, and resize it to a square.

    Args:
        size: side of the square in pixels.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add `img`, (size, size, 3) in the order blue, green, red."""
        left, top, width, height = (round(value) for value in results["bbox"])
        image = cv2.imread(results["img_path"])[top : top + height, left : left + width]
        return {**results, "img": cv2.resize(image, (self.size, self.size), interpolation=cv2.INTER_AREA)}


@TRANSFORMS.register_module()
class FlipCrop:
    """Flip a crop left to right, upside down, both or not, each as often."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Change `img`."""
        across, down = (int(step) for step in np.random.choice((-1, 1), 2))
        return {**results, "img": results["img"][::down, ::across]}


@TRANSFORMS.register_module()
class PackCrop:
    """Make what a model of MMEngine takes: `inputs` (3, H, W), and a sample with `gt_label`."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return `inputs` and `data_samples`."""
        size = results["img"].shape[:2]
        sample = BaseDataElement(metainfo=dict(img_path=results["img_path"], img_shape=size, ori_shape=size))
        sample.gt_label = torch.tensor(results["label"])
        pixels = np.ascontiguousarray(results["img"].transpose(2, 0, 1))
        return dict(inputs=torch.from_numpy(pixels), data_samples=sample)


@METRICS.register_module()
class MeanRecall(BaseMetric):
    """Mean over the classes of the share of their images that is found, in percent."""

    default_prefix = "crops"

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Take in a batch of predictions."""
        self.results += [(int(sample["gt_label"]), int(sample["pred_label"])) for sample in data_samples]

    def compute_metrics(self, results: list[tuple[int, int]]) -> dict[str, float]:
        """Return `mean_recall`."""
        truths = Counter(truth for truth, _ in results)
        hits = Counter(truth for truth, found in results if truth == found)
        return dict(mean_recall=100 * sum(hits[label] / count for label, count in truths.items()) / len(truths))
