"""Data set of the images in a folder, without labels."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from mmengine.dataset import BaseDataset
from PIL import Image

from freqkd.utils.checks import check_sequence

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".jp2", ".ppm", ".pgm", ".exr", ".hdr")


class ImageFolder(BaseDataset):
    """The images of a folder and of its subfolders, by the order of their paths, for a training that needs no labels.

    The pipeline is one of mmdet or mmseg without `LoadAnnotations`, and without what looks at labels.

    Config::

        dict(
            type='freqkd.ImageFolder', data_root='photos/',
            pipeline=[dict(type='LoadImageFromFile'), dict(type='Resize', scale=(640, 480)), dict(type='PackDetInputs')])

    Args:
        data_root: the folder.
        data_prefix: `dict(img=...)`: the part of it where the images are.
        suffixes: endings of the images' names, in lower case.
        options: other arguments of MMEngine's `BaseDataset`: `pipeline`, `metainfo`, `indices` and so on.

    Raises:
        ValueError: there is no image.
    """

    def __init__(
        self,
        data_root: str = "",
        data_prefix: Mapping[str, str] | None = None,
        suffixes: Sequence[str] = SUFFIXES,
        **options: Any,
    ) -> None:
        check_sequence("suffixes", suffixes, "endings of names")
        if data_prefix is not None and set(data_prefix) != {"img"}:
            raise ValueError(f"data_prefix must be dict(img=...), got {data_prefix!r}")
        self.suffixes = tuple(suffixes)
        super().__init__(data_root=data_root, data_prefix=dict(data_prefix or dict(img="")), **options)

    def load_data_list(self) -> list[dict[str, Any]]:
        """List the images."""
        folder = self.data_prefix["img"]
        found = [
            os.path.join(place, name)
            for place, _, names in os.walk(folder, followlinks=True)
            for name in names
            if name.lower().endswith(self.suffixes) and not name.startswith(".")
        ]
        if not found:
            raise ValueError(
                f"data_root must be a folder with images ({', '.join(self.suffixes)}), got none in {folder!r}; correct it, "
                "data_prefix or suffixes"
            )
        return [dict(img_path=path, img_id=number) for number, path in enumerate(sorted(found))]

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return path, number, height and width of an image; batch samplers ask for its size."""
        info: dict[str, Any] = super().get_data_info(idx)
        with suppress(OSError):  # a format that OpenCV reads and Pillow does not
            with Image.open(info["img_path"]) as image:
                info.update(height=image.height, width=image.width)
        return info
