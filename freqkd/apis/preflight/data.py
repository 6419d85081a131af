"""Checks of data sets: their files, annotations, images and labels."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import mmap
import os
import re
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from freqkd.apis.preflight.classes import check_counts, heads_of
from freqkd.apis.preflight.datasets import (
    LARGE,
    DataError,
    annotations_of,
    dataset_class,
    inherits,
    is_library,
    is_local,
    joins_paths,
    leaf_datasets,
    lists_images,
    prefixes_of,
    root_of,
)
from freqkd.datasets.image_folder import SUFFIXES
from freqkd.teacher.teacher import rehearsal
from freqkd.utils.errors import worded
from freqkd.utils.paths import where_to_put
from freqkd.utils.slots import describe, refuse

MOST_IMAGES, MOST_MAPS, MOST_RUN = 5_000, 64, 4  # whose files are checked, that are read, that run through the pipeline
_CODE = (".pkl", ".pickle", ".yaml", ".yml")  # formats whose readers can run code
_KINDS = {  # the first bytes of the image formats that OpenCV and Pillow read
    "jpeg": (b"\xff\xd8\xff",),
    "png": (b"\x89PNG\r\n\x1a\n",),
    "bmp": (b"BM",),
    "gif": (b"GIF8",),
    "tiff": (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"),
    "webp": (b"RIFF",),
    "jpeg 2000": (b"\x00\x00\x00\x0cjP", b"\xff\x4f\xff\x51"),
    "portable map": tuple(f"P{digit}".encode() for digit in range(1, 8)),
    "exr": (b"\x76\x2f\x31\x01",),
    "hdr": (b"#?",),
    "avif": (b"\x00\x00\x00\x20ftyp", b"\x00\x00\x00\x1cftyp"),
}


def check_data(
    config: Config, splits: tuple[str, ...] = ("train", "val"), trust: bool = False
) -> dict[str, Mapping[str, Any]]:
    """Check the files and annotations of data sets, and their classes and labels against the heads of the model.

    Of large data sets, evenly chosen files are checked.

    Args:
        config: the config of a run.
        splits: the splits to check; those without a data loader are skipped.
        trust: also read annotation files that can run code.

    Returns:
        The output of the pipeline for one image of each split, where it is a sample of a batch.

    Raises:
        DataError: a file is missing, empty, damaged or does not fit the others.
        ValueError: a data set cannot be built.
    """
    samples: dict[str, Mapping[str, Any]] = {}
    for split in splits:
        loader = config.get(f"{split}_dataloader")
        if not isinstance(loader, Mapping):
            continue
        where = f"{split}_dataloader"
        with DefaultScope.overwrite_default_scope(config.get("default_scope")):
            for dataset, is_wrapped in leaf_datasets(loader.get("dataset")):
                # pycocotools tells of every file that it reads, and the run reads them again.
                with worded(f"{where}.dataset"), contextlib.redirect_stdout(io.StringIO()):
                    packed = _check_dataset(dataset, where, config, trust)
                for sample in [] if is_wrapped else packed:
                    _check_packed(sample, where)
                    samples.setdefault(split, sample)
    return samples


def _check_dataset(dataset: Mapping[str, Any], where: str, config: Config, trust: bool) -> list[Any]:
    """Check one data set; return the output of its pipeline for some of its images, where it lists them.

    A class with rules of its own, and data behind a server, are checked only by what is known to hold for them.
    """
    for slot in ("filter_cfg", "metainfo", "backend_args", "file_client_args"):
        value = dataset.get(slot)
        if value is not None and not isinstance(value, Mapping):
            raise refuse(f"{where}.dataset.{slot}", "a dict", value)
    kind = dataset_class(dataset)
    path = ""
    if is_local(dataset):
        if kind is None or joins_paths(kind):
            path = annotations_of(dataset)
            _check_folders(dataset, where)
            _check_annotations(path, kind, dataset, where)
        _check_code(dataset.get("ann_file"), where, trust)
    if kind is not None and not lists_images(kind):
        return []
    with rehearsal():
        images: Any = DATASETS.build({**copy.deepcopy(dict(dataset)), "lazy_init": True})
        check_counts(images, config, where)
        kind = type(images)
        if not (is_local(dataset) and is_library(kind.full_init)):
            return []
        transforms = images.pipeline.transforms
        stored = all(is_local(getattr(one, "__dict__", {})) for one in transforms)
        if _is_large(images.ann_file):
            if stored and _is_coco(kind) and _finds(transforms, "LoadImageFromFile"):
                _check_images(_names_in_large(path, dataset), path, where)
            return []
        images.data_list = images.load_data_list()
        found = images.filter_data()
        if not found:
            raise _empty(images, dataset, where)
        if not stored or not all(isinstance(item, Mapping) for item in found):
            return []
        if _finds(transforms, "LoadImageFromFile"):
            _check_images([item["img_path"] for item in found if item.get("img_path")], path, where)
        if _finds(transforms, "Annotations"):
            maps = [item["seg_map_path"] for item in found if item.get("seg_map_path")]
            _check_images(maps, path, where, "segmentation map")
            _check_labels(images, found, config, where)
        images.data_list, images.serialize_data, images._fully_initialized = found, False, True
        packed = [_run_pipeline(images, index, where) for index in evenly(range(len(found)), MOST_RUN)]
        return [sample for sample in packed if sample is not None]  # None: MMEngine would draw another image


def _finds(transforms: Sequence[Any], word: str) -> bool:
    """Whether a pipeline has a transform of the packages, rather than a user's own, whose name contains a word."""
    return any(word in type(one).__name__ and is_library(type(one)) for one in transforms)


def _is_coco(kind: Any) -> bool:
    """Whether a class reads its annotation file as mmdet's `CocoDataset` does."""
    return inherits(kind, "CocoDataset.load_data_list", "CocoDataset.parse_data_info")


def _is_large(path: Any) -> bool:
    return isinstance(path, str) and os.path.isfile(path) and os.path.getsize(path) > LARGE


def _empty(images: Any, dataset: Mapping[str, Any], where: str) -> DataError:
    prefixes = getattr(images, "data_prefix", None) or {}
    folders = [part for part in prefixes.values() if part] if isinstance(prefixes, Mapping) else [prefixes]
    details = [f"classes {list(images.metainfo.get('classes') or ())}", f"folders {folders}"]
    if hasattr(images, "img_suffix"):
        details.append(f"img_suffix {images.img_suffix!r}")
    return DataError(
        f"{where}: the split is empty: no image of {images.ann_file or dataset.get('data_root')} is left "
        f"({', '.join(details)}); change {where}.dataset so that it finds the images"
    )


# ---- files ------------------------------------------------------------------------------------------------------------


def _check_folders(dataset: Mapping[str, Any], where: str) -> None:
    root, prefixes = root_of(dataset), prefixes_of(dataset)
    change = f"or change {where}.dataset.data_root"
    folders = [os.path.join(root, value) for value in prefixes.values()]
    places = [dataset.get("ann_file") or "/", *((dataset.get("data_prefix") or {}).values() or [""])]
    # A root that nothing is joined to, e.g. an inherited one, is not read.
    if not all(os.path.isabs(place or "") for place in places):
        folders.insert(0, root)
    for folder in folders:
        if not folder:
            continue
        if not os.path.isdir(folder):
            raise DataError(f"{where}: data folder not found: {folder}; {where_to_put(folder)}, {change}")
        with os.scandir(folder) as entries:
            if next(entries, None) is None:
                raise DataError(f"{where}: data folder is empty: {folder}; {where_to_put(folder)}, {change}")


def _fault_of(path: str) -> str:
    """Describe why a path is not a readable file; "" where it is one. Nothing is opened, since a pipe would block."""
    try:
        found = os.stat(path)
    except OSError as error:
        return "not found" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
    for is_kind, kind in ((stat.S_ISDIR, "folder"), (stat.S_ISFIFO, "pipe"), (stat.S_ISSOCK, "socket")):
        if is_kind(found.st_mode):
            return f"a {kind}, and must be a file"
    if not stat.S_ISREG(found.st_mode):
        return "a device, and must be a file"
    if found.st_size == 0:
        return "empty"
    return "" if os.access(path, os.R_OK) else "not readable for this user"


def _check_annotations(path: str, kind: Any, dataset: Mapping[str, Any], where: str) -> None:
    """Check the annotation file of a class of the packages; some take a folder in its place."""
    # Others have formats of their own.
    is_json = hasattr(kind, "COCOAPI") or inherits(kind, "BaseDataset.load_data_list")
    if not path or (os.path.isdir(path) and not is_json):
        return
    fault = _fault_of(path)
    if fault == "not found":
        raise DataError(
            f"{where}: annotation file not found: {path}; {where_to_put(path)}, or change {where}.dataset.ann_file"
        )
    if fault:
        raise DataError(f"{where}: annotation file is {fault}: {path}; it must name at least one image")
    if not path.endswith(".json") or not is_json or _is_large(path):
        return
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: annotation file is not valid json: {path} ({error}); copy it again") from None
    if _is_coco(kind):
        fault = _fault_of_coco(content, bool(dataset.get("test_mode")))
        if fault:
            raise DataError(f"{where}: annotation file {path} {fault}; correct it, or create it again")
        if (dataset.get("filter_cfg") or {}).get("filter_empty_gt") and not content.get("annotations"):
            raise DataError(f"{where}: the split is empty: no image of {path} has an annotation; name another ann_file")


def _check_code(path: Any, where: str, trust: bool) -> None:
    if isinstance(path, str) and path.lower().endswith(_CODE) and not trust:
        raise DataError(
            f"{where}: annotation file {path} can run code when it is read; store it as json, or add --trust-checkpoint if "
            "you trust its author"
        )


def _fault_of_coco(content: Any, is_test: bool) -> str:
    """Describe what is wrong with the content of an annotation file in COCO's format; "" where nothing is.

    >>> _fault_of_coco([1], False)
    "must hold a dict with 'images', 'annotations' and 'categories', got [1]"
    """
    if not isinstance(content, Mapping):
        return f"must hold a dict with 'images', 'annotations' and 'categories', got {describe(content)}"
    images: Any = content.get("images")
    categories: Any = content.get("categories")
    boxes: Any = content.get("annotations", [] if is_test else None)
    for name, entries in (("images", images), ("annotations", boxes), ("categories", categories)):
        if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
            got = "none" if entries is None else describe(entries)
            return f"must have a list of dicts under '{name}', got {got}"
    if not images:
        return "lists no image (the split is empty)"
    for name, entries, keys in (
        ("images", images, ["id", "file_name"]),
        ("categories", categories, ["id", "name"]),
        ("annotations", boxes, ["id", "image_id", "category_id", "bbox", "area"]),
    ):
        for index, entry in enumerate(entries):
            for key in keys:
                if key not in entry:
                    return (
                        f"must have '{key}' in every entry of '{name}', and entry {index} lacks it: {describe(entry)}"
                    )
                if key.endswith("id") and not isinstance(entry[key], (int, str)):
                    return f"must have a number or a text as '{key}', got {describe(entry[key])} in {name}[{index}]"
        identities = Counter(entry["id"] for entry in entries)
        repeated = [key for key, count in identities.items() if count > 1]
        if repeated:
            return f"must have every 'id' once in '{name}', and has {describe(repeated[0])} {identities[repeated[0]]} times"
    return _fault_of_boxes(images, boxes, categories)


def _fault_of_boxes(images: Sequence[Any], boxes: Sequence[Any], categories: Sequence[Any]) -> str:
    known, kinds = {entry["id"] for entry in images}, {entry["id"] for entry in categories}
    for index, entry in enumerate(images):
        if not isinstance(entry["file_name"], str):
            return f"must have a text as 'file_name', got {describe(entry['file_name'])} in images[{index}]"
        for side in ("height", "width"):
            if side in entry and not (_is_number(entry[side]) and entry[side] > 0):
                return f"must have a number above 0 as '{side}', got {describe(entry[side])} in images[{index}]"
    for index, entry in enumerate(boxes):
        box = entry["bbox"]
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
            return (
                f"must have four numbers (x, y, width, height) as 'bbox', got {describe(box)} in annotations[{index}]"
            )
        if not _is_number(entry["area"]):
            return f"must have a number as 'area', got {describe(entry['area'])} in annotations[{index}]"
        if entry["image_id"] not in known:
            return f"has annotations[{index}] of image {describe(entry['image_id'])}, which 'images' does not list"
        if entry["category_id"] not in kinds:
            return f"has annotations[{index}] of category {describe(entry['category_id'])}, which 'categories' does not list"
    return ""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


# ---- images -----------------------------------------------------------------------------------------------------------


def evenly(entries: Sequence[Any], most: int) -> list[Any]:
    """Return all entries, or `most` of them at equal distances, the first and the last among them.

    >>> evenly(range(10), 4)
    [0, 3, 6, 9]
    """
    if len(entries) <= most:
        return list(entries)
    return [entries[index] for index in np.linspace(0, len(entries) - 1, most).astype(int)]


def _names_in_large(path: str, dataset: Mapping[str, Any]) -> list[str]:
    """Return the images that a large file in COCO's format names, without parsing it as json."""
    folder = os.path.join(root_of(dataset), prefixes_of(dataset).get("img", ""))
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        names = re.findall(rb'"file_name"\s*:\s*"([^"\\]+)"', content)
    return [os.path.join(folder, name.decode("utf-8", "replace")) for name in names]


def _check_images(paths: Sequence[str], named_by: str, where: str, what: str = "image") -> None:
    """Check that image files exist, are not empty, and begin as an image does."""
    checked = [path for path in evenly(paths, MOST_IMAGES) if "://" not in path]
    faults = [(path, fault) for path in checked if (fault := _fault_of(path) or _foreign(path))]
    if not faults:
        return
    path, fault = faults[0]
    missing = f"; {named_by} names it" if named_by and fault == "not found" else ""
    raise DataError(
        f"{where}: {len(faults)} of {len(checked)} {what} files cannot be used, first {path}: {fault}{missing}; put whole "
        f"files there, or change data_root, data_prefix or the suffixes of {where}.dataset"
    )


def _foreign(path: str) -> str:
    """Describe that a file named as an image does not begin as one; "" where it does."""
    if not path.lower().endswith(SUFFIXES):
        return ""
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if any(start.startswith(mark) for marks in _KINDS.values() for mark in marks):
        return ""
    return f"not an image, it begins with {start[:8]!r}"


# ---- labels and samples ----------------------------------------------------------------------------------------------


def _check_labels(images: Any, found: Sequence[Mapping[str, Any]], config: Config, where: str) -> None:
    """Read segmentation maps as the pipeline does, and compare their labels with the number of classes of the heads."""
    load = next((one for one in images.pipeline.transforms if type(one).__name__ == "LoadAnnotations"), None)
    heads = {path: head for path, head in heads_of(config).items() if "decode_head" in path or "auxiliary_head" in path}
    maps = [item for item in found if item.get("seg_map_path") and "label_map" in item]
    if load is None or not heads or not maps or not all(is_library(type(one)) for one in images.pipeline.transforms):
        return  # a transform of the user's own may change the labels
    path, head = min(heads.items(), key=lambda entry: entry[1]["num_classes"])
    limit, ignored = head["num_classes"], head.get("ignore_index", 255)
    for item in evenly(maps, MOST_MAPS):
        file = item["seg_map_path"]
        with worded(f"{where}: segmentation map {file} cannot be read"):
            labels = load(copy.deepcopy(dict(item)))["gt_seg_map"]
        if labels.ndim != 2:
            raise DataError(
                f"{where}: segmentation map {file} must have one channel of labels, got shape {labels.shape}; store the "
                "labels themselves, not their colours"
            )
        size = _size(str(item.get("img_path")))
        if size and sorted(size) != sorted(labels.shape):
            raise DataError(
                f"{where}: segmentation map {file} must be as large as its image, got {labels.shape} for an image of {size}; "
                "correct data_prefix or the suffixes, or create the maps again"
            )
        wrong = sorted({int(label) for label in np.unique(labels)} - {*range(limit), ignored})
        if wrong:
            raise DataError(
                f"{where}: segmentation map {file} has labels {describe(wrong)}, and {path}.num_classes is {limit}: they "
                f"must be below it, or {ignored}, which is ignored; correct the maps, num_classes or reduce_zero_label"
            )


def _size(path: str) -> tuple[int, int] | None:
    """Return height and width from the header of an image file; None where it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, ValueError):
        return None


def _run_pipeline(images: Any, index: int, where: str) -> Any:
    """Return an image as the data set gives it, by the class's own way where it has one."""
    read = images.prepare_data if is_library(type(images).__getitem__) else images.__getitem__
    with worded(f"{where}.dataset.pipeline fails on {images.data_list[index].get('img_path', 'an image')}"):
        return read(index)


def _check_packed(sample: Any, where: str) -> None:
    """Check that a pipeline returns a sample of a batch."""
    if not isinstance(sample, Mapping) or "inputs" not in sample:
        got = sorted(map(str, sample)) if isinstance(sample, Mapping) else describe(sample)
        raise DataError(
            f"{where}.dataset.pipeline must give a dict with 'inputs', got {describe(got)}; end it with PackDetInputs or "
            "PackSegInputs"
        )
