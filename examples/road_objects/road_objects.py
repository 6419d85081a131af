"""The road scenes as a data set of mmdet: an object for every connected part of the class obstacle, and all labels."""

from __future__ import annotations

import os
from typing import Any

import cv2
import numpy as np
from mmdet.datasets import BaseDetDataset
from mmdet.registry import DATASETS
from pycocotools import mask as rle

OBSTACLE = 1  # in the label files
THINGS_FIRST = {OBSTACLE: 0, 0: 1}  # labels of panoptic heads: things, then the others; the rest stay as they are


@DATASETS.register_module()
class RoadObjects(BaseDetDataset):
    """Images with boxes and masks of obstacles, and label maps; images without an obstacle are left out.

    Args:
        min_area: pixels of the smallest part that is an object.
        options: as for every `BaseDetDataset`: `data_root`, `data_prefix` with `img` and `seg`, `pipeline`.
    """

    METAINFO = dict(
        classes=("obstacle",),
        thing_classes=("obstacle",),
        stuff_classes=("background", "road", "sidewalk", "speedbreaker"),
    )

    def __init__(self, *, min_area: int = 20, **options: Any) -> None:
        self.min_area = min_area
        super().__init__(**options)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return the images with their objects, in the order of their names."""
        found = []
        for index, name in enumerate(sorted(os.listdir(self.data_prefix["seg"]))):
            path = os.path.join(self.data_prefix["seg"], name)
            labels = cv2.imread(path, cv2.IMREAD_UNCHANGED)
            objects = self._objects(labels == OBSTACLE)
            if objects:
                image = os.path.join(self.data_prefix["img"], f"{os.path.splitext(name)[0]}.jpg")
                size = dict(zip(("height", "width"), labels.shape))
                found.append(
                    dict(
                        img_id=index,
                        img_path=image,
                        seg_map_path=path,
                        label_map=THINGS_FIRST,
                        instances=objects,
                        **size,
                    )
                )
        return found

    def _objects(self, is_obstacle: np.ndarray) -> list[dict[str, Any]]:
        count, parts, statistics, _ = cv2.connectedComponentsWithStats(is_obstacle.astype(np.uint8), connectivity=8)
        objects = []
        for part in range(1, count):
            left, top, width, height, area = (int(value) for value in statistics[part])
            if area >= self.min_area:
                code = rle.encode(np.asfortranarray(parts == part, dtype=np.uint8))
                mask = dict(size=code["size"], counts=code["counts"].decode())
                box = [left, top, left + width, top + height]
                objects.append(dict(bbox=box, bbox_label=0, mask=mask, ignore_flag=0))
        return objects
