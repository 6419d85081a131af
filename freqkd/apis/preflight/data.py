"""Checks of data sets: their files, annotations, images and labels, and their classes against the heads."""

from __future__ import annotations

import copy
import inspect
import json
import math
import mmap
import os
import re
import stat
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, DefaultScope

from freqkd.teacher.teacher import rehearsal
from freqkd.utils.compat import read_config
from freqkd.utils.errors import worded
from freqkd.utils.slots import describe, refuse

LARGE = 50_000_000  # bytes; a larger annotation file is not read twice, and a metric that reads it not built
MOST_IMAGES, MOST_MAPS, MOST_RUN = 5_000, 64, 4  # whose files are checked, that are read, that run through the pipeline
HEADS = ("bbox_head", "mask_head", "roi_head", "decode_head", "auxiliary_head")
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
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".jp2", ".ppm", ".pgm", ".exr", ".hdr")


class DataError(ValueError):
    """A data set cannot be used; the message names the split, the file, the rule and what to do."""


def _datasets(config: Any, is_wrapped: bool = False) -> Iterator[tuple[Mapping[str, Any], bool]]:
    """Yield the data sets inside wrappers such as RepeatDataset, and whether a wrapper has a pipeline of its own."""
    if isinstance(config, (list, tuple)):
        for item in config:
            yield from _datasets(item, is_wrapped)
    elif isinstance(config, Mapping):
        inner = config.get("dataset") or config.get("datasets")
        if inner is not None:
            yield from _datasets(inner, is_wrapped or bool(config.get("pipeline")))
        else:
            yield config, is_wrapped


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
            for dataset, is_wrapped in _datasets(loader.get("dataset")):
                with worded(f"{where}.dataset"):
                    packed = _check_dataset(dataset, where, config, trust)
                for sample in [] if is_wrapped else packed:
                    _check_packed(sample, where)
                    samples.setdefault(split, sample)
    return samples


def _check_dataset(dataset: Mapping[str, Any], where: str, config: Config, trust: bool) -> list[Any]:
    """Check one data set; return the output of its pipeline for some of its images, where it lists them."""
    for slot in ("filter_cfg", "metainfo", "backend_args", "file_client_args"):
        value = dataset.get(slot)
        if value is not None and not isinstance(value, Mapping):
            raise refuse(f"{where}.dataset.{slot}", "a dict", value)
    if not _is_local(dataset):
        return []
    path = _annotations(dataset)
    _check_folders(dataset, where)
    if path:
        _check_annotations(path, dataset, where, trust)
    kind = _kind(dataset)
    if kind is not None and not _lists_images(kind):
        return []
    with rehearsal():
        images: Any = DATASETS.build({**copy.deepcopy(dict(dataset)), "lazy_init": True})
        _check_classes(images, config, where)
        transforms = images.pipeline.transforms
        stored = all(_is_local(getattr(one, "__dict__", {})) for one in transforms)
        if path and "://" not in path and os.path.getsize(path) > LARGE:
            if stored:
                _check_images(_names_in_large(path, dataset), path, where)
            return []
        images.data_list = images.load_data_list()
        found = images.filter_data()
        if not found:
            raise _empty(images, dataset, where)
        if not stored or not all(isinstance(item, Mapping) for item in found):
            return []
        _check_images([item["img_path"] for item in found if item.get("img_path")], path, where)
        if any("Annotations" in type(one).__name__ for one in transforms):
            maps = [item["seg_map_path"] for item in found if item.get("seg_map_path")]
            _check_images(maps, path, where, "segmentation map")
            _check_labels(images, found, config, where)
        packed = [_run_pipeline(images, item, where) for item in evenly(found, MOST_RUN)]
        return [sample for sample in packed if sample is not None]  # None: MMEngine would draw another image


def _kind(dataset: Mapping[str, Any]) -> Any:
    """Return the class that a data set's config names; None if it is not registered."""
    with DATASETS.switch_scope_and_registry(dataset.get("_scope_")) as registry:
        return registry.get(dataset["type"]) if isinstance(dataset.get("type"), str) else dataset.get("type")


def _lists_images(kind: Any) -> bool:
    """Whether a class derives from MMEngine's `BaseDataset` and can be built without listing its images."""
    if not (isinstance(kind, type) and issubclass(kind, BaseDataset)):
        return False
    parameters = inspect.signature(kind).parameters.values()
    return any(one.name == "lazy_init" or one.kind is one.VAR_KEYWORD for one in parameters)


def _is_local(options: Mapping[str, Any]) -> bool:
    """Whether a data set or a transform reads plain files, rather than a database or a server."""
    backends = [options.get(name) for name in ("backend_args", "file_client_args")]
    return all(one.get("backend", "local") in ("local", "disk") for one in backends if isinstance(one, Mapping))


def _empty(images: Any, dataset: Mapping[str, Any], where: str) -> DataError:
    folders = [os.path.join(dataset.get("data_root") or "", part) for part in _prefixes(dataset).values()]
    details = [f"classes {list(images.metainfo.get('classes') or ())}", f"folders {folders}"]
    if hasattr(images, "img_suffix"):
        details.append(f"img_suffix {images.img_suffix!r}")
    return DataError(
        f"{where}: the split is empty: no image of {_annotations(dataset) or dataset.get('data_root')} is left "
        f"({', '.join(details)}); change {where}.dataset so that it finds the images"
    )


# ---- files ------------------------------------------------------------------------------------------------------------


def _annotations(dataset: Mapping[str, Any]) -> str:
    path = dataset.get("ann_file") or ""
    if not isinstance(path, str):
        raise DataError(f"ann_file must be a path, got {describe(path)}; name one file")
    return path if not path or os.path.isabs(path) else os.path.join(_root(dataset), path)


def _root(dataset: Mapping[str, Any]) -> str:
    root = dataset.get("data_root") or ""
    if not isinstance(root, str):
        raise DataError(f"data_root must be a path, got {describe(root)}; name one folder")
    return root


def _prefixes(dataset: Mapping[str, Any]) -> dict[str, str]:
    prefixes = dataset.get("data_prefix") or {}
    if not isinstance(prefixes, Mapping) or not all(
        isinstance(value, (str, type(None))) for value in prefixes.values()
    ):
        raise DataError(f"data_prefix must be a dict of folders, e.g. dict(img='images/'), got {describe(prefixes)}")
    return {key: value for key, value in prefixes.items() if value}


def _check_folders(dataset: Mapping[str, Any], where: str) -> None:
    root = _root(dataset)
    hint = f"put the data there (see data/README.md), or change {where}.dataset.data_root"
    for folder in [root, *(os.path.join(root, value) for value in _prefixes(dataset).values())]:
        if not folder or "://" in folder:
            continue
        if not os.path.isdir(folder):
            raise DataError(f"{where}: data folder not found: {folder}; {hint}")
        with os.scandir(folder) as entries:
            if next(entries, None) is None:
                raise DataError(f"{where}: data folder is empty: {folder}; {hint}")


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


def _check_annotations(path: str, dataset: Mapping[str, Any], where: str, trust: bool) -> None:
    if "://" in path:
        return
    fault = _fault_of(path)
    if fault == "not found":
        raise DataError(
            f"{where}: annotation file not found: {path}; put the data there (see data/README.md), or change "
            f"{where}.dataset.ann_file"
        )
    if fault:
        raise DataError(f"{where}: annotation file is {fault}: {path}; it must name at least one image")
    if path.lower().endswith(_CODE) and not trust:
        raise DataError(
            f"{where}: annotation file {path} can run code when it is read; store it as json, or add --trust-checkpoint if "
            "you trust its author"
        )
    if not path.endswith(".json") or os.path.getsize(path) > LARGE:
        return
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: annotation file is not valid json: {path} ({error}); copy it again") from None
    if hasattr(_kind(dataset), "COCOAPI"):
        fault = _fault_of_coco(content, bool(dataset.get("test_mode")))
        if fault:
            raise DataError(f"{where}: annotation file {path} {fault}; correct it, or create it again")
        if (dataset.get("filter_cfg") or {}).get("filter_empty_gt") and not content.get("annotations"):
            raise DataError(f"{where}: the split is empty: no image of {path} has an annotation; name another ann_file")


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
    folder = os.path.join(_root(dataset), _prefixes(dataset).get("img", ""))
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
    if not path.lower().endswith(_SUFFIXES):
        return ""
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if any(start.startswith(mark) for marks in _KINDS.values() for mark in marks):
        return ""
    return f"not an image, it begins with {start[:8]!r}"


# ---- classes and labels -------------------------------------------------------------------------------------------------


def _heads(config: Config) -> dict[str, Mapping[str, Any]]:
    """Return the heads of a config by their path: the student's, or the teacher's in a prompt stage."""
    model = config.get("model")
    if isinstance(model, Mapping) and isinstance(model.get("student"), Mapping):
        model = model["student"]
    elif isinstance(model, Mapping) and isinstance(model.get("teacher"), Mapping) and "config" in model["teacher"]:
        teacher = copy.deepcopy(read_config(model["teacher"]["config"]))
        teacher.merge_from_dict(dict(model["teacher"].get("cfg_options") or {}))
        model = teacher.model.get("student") or teacher.model
    found: dict[str, Mapping[str, Any]] = {}

    def collect(path: str, head: Any) -> None:
        if isinstance(head, (list, tuple)):
            for index, one in enumerate(head):
                collect(f"{path}[{index}]", one)
        elif isinstance(head, Mapping):
            if isinstance(head.get("num_classes"), int):
                found[path] = head
            for name in HEADS:
                if name in head:
                    collect(f"{path}.{name}", head[name])

    for name in HEADS:
        if isinstance(model, Mapping) and name in model:
            collect(name, model[name])
    return found


def _check_classes(images: Any, config: Config, where: str) -> None:
    """Compare the number of classes of a data set with those of the heads."""
    classes = images.metainfo.get("classes")
    if not classes or isinstance(classes, str):
        return
    for path, head in _heads(config).items():
        if len(classes) > head["num_classes"]:
            raise DataError(
                f"{where}: the data set has {len(classes)} classes, and {path}.num_classes is {head['num_classes']}: it must "
                "be at least as many; set it in the config of the network, or name fewer classes in "
                f"{where}.dataset.metainfo"
            )
        if len(classes) < head["num_classes"] and "." not in path:
            print(
                f"warning: {where}: the data set has {len(classes)} classes, {path}.num_classes is {head['num_classes']}; "
                "the other classes are never trained",
                file=sys.stderr,
            )


def _check_labels(images: Any, found: Sequence[Mapping[str, Any]], config: Config, where: str) -> None:
    """Read segmentation maps as the pipeline does, and compare their labels with the number of classes of the heads."""
    load = next((one for one in images.pipeline.transforms if type(one).__name__ == "LoadAnnotations"), None)
    heads = {path: head for path, head in _heads(config).items() if "decode_head" in path or "auxiliary_head" in path}
    maps = [item for item in found if item.get("seg_map_path") and "label_map" in item]
    if load is None or not heads or not maps:
        return
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


def _run_pipeline(images: Any, item: Mapping[str, Any], where: str) -> Any:
    with worded(f"{where}.dataset.pipeline fails on {item.get('img_path', 'an image')}"):
        return images.pipeline({**copy.deepcopy(dict(item)), "sample_idx": 0})


def _check_packed(sample: Any, where: str) -> None:
    """Check that a pipeline returns a sample of a batch."""
    if not isinstance(sample, Mapping) or "inputs" not in sample:
        got = sorted(map(str, sample)) if isinstance(sample, Mapping) else describe(sample)
        raise DataError(
            f"{where}.dataset.pipeline must give a dict with 'inputs', got {describe(got)}; end it with PackDetInputs or "
            "PackSegInputs"
        )
