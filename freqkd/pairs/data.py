"""Own data in the configs of both networks: files, classes, heads; a part for validation where there is none."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from PIL import Image

from freqkd.pairs.configs import HERE, instead, place_of
from freqkd.pairs.sizes import resizing
from freqkd.pairs.source import Code
from freqkd.studies.split import Selection
from freqkd.utils.slots import describe

IMAGES, LABELS = ("images", "img_dir"), ("labels", "ann_dir", "annotations")  # folders of a segmentation data set
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
THINGS, STUFF = "num_things_classes", "num_stuff_classes"  # of MaskFormer and Mask2Former in mmdet
IGNORED = 255  # the label of pixels that do not count


@dataclass(frozen=True)
class OwnData:
    """A data set of the user's.

    Attributes:
        classes: names, in the order of their labels.
        train: settings of the training data set.
        val: settings of the validation data set.
        kind: its class in mmdet or mmseg.
        words: sentences for the comment of the config.
        files: what is written beside the configs, by name: the parts of a data set that is split.
    """

    classes: tuple[str, ...]
    train: dict[str, Any]
    val: dict[str, Any]
    kind: str
    words: tuple[str, ...]
    files: dict[str, str] = field(default_factory=dict)


def read_coco(
    train: str, images: str, out: Path, val: str | None = None, val_images: str | None = None, seed: int = 0
) -> OwnData:
    """Read a data set in COCO's format; without `val`, a fifth of its images is drawn.

    Args:
        train: the file of annotations.
        images: the folder that its file names are relative to.
        out: folder of the configs.
        val: file of annotations for validation.
        val_images: the folder of its images; None: the same.
        seed: of the draw.

    Raises:
        ValueError: a file is missing or not in this format, or an image is.
    """
    content = _read_coco(train, images)
    classes = tuple(str(one["name"]) for one in content["categories"])
    words = [f"Data: {train}, {len(content['images'])} images, {len(classes)} classes."]
    files = [place_of(train, out), place_of(val, out) if val else ""]
    parts: dict[str, str] = {}
    if val:
        other = tuple(str(one["name"]) for one in _read_coco(val, val_images or images, "--val")["categories"])
        if other != classes:
            raise ValueError(
                f"--val must have the classes of --data, in the same order, {describe(classes)}, got {describe(other)}"
            )
    else:
        held = Selection(seed=seed).draw(str(image["file_name"]) for image in content["images"])
        for index, name in enumerate(("train", "val")):
            part = [image for image in content["images"] if (str(image["file_name"]) in held) == (name == "val")]
            ids = {image["id"] for image in part}
            boxes = [one for one in content["annotations"] if one["image_id"] in ids]
            parts[f"{name}.json"] = json.dumps({**content, "images": part, "annotations": boxes})
            files[index] = f"{HERE}/{name}.json"
        words.append(f"{len(held)} of the images were drawn for validation (seed {seed}): train.json, val.json.")
    train_part, val_part = (
        dict(
            data_root="",
            ann_file=file,
            data_prefix=dict(img=f"{place_of(folder, out)}/"),
            metainfo=dict(classes=classes),
        )
        for file, folder in zip(files, (images, val_images or images))
    )
    return OwnData(classes, train_part, val_part, "CocoDataset", tuple(words), parts)


def _read_coco(path: str, images: str, flag: str = "--data") -> dict[str, Any]:
    try:
        content = json.loads(Path(path).read_text("utf-8"))
        first = content["images"][0]["file_name"]
        names = [one["name"] for one in content["categories"]]
        parts = len(content["annotations"])
    except OSError as error:
        raise ValueError(
            f"{flag} must be a file in COCO's format, got {path}, which cannot be read ({error.strerror})"
        ) from None
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError(
            f"{flag} must be a file in COCO's format, with images, annotations and categories, got {path} ({error!r})"
        ) from None
    if not names or not parts:
        raise ValueError(f"{flag} must have annotations and categories, got {path} with {parts} and {len(names)}")
    if not os.path.isfile(os.path.join(images, first)):
        folder = "--images" if flag == "--data" else "--val-images"
        raise ValueError(
            f"{folder} must be the folder that file names in {flag} are relative to, got {images}, which has no {first}"
        )
    return dict(content)


def read_folder(folder: str, out: Path, classes: Sequence[str] = (), seed: int = 0) -> OwnData:
    """Read a folder of images and label maps; without `train` and `val` in it, a fifth of the images is drawn.

    Args:
        folder: with `images/` and `labels/` (or `img_dir/` and `ann_dir/`); label maps are named like their images.
        out: folder of the configs.
        classes: names, in the order of the labels; empty: those in `classes.txt` (one on a line) or `classes.json` of the
            folder, or else one for each label found.
        seed: of the draw.

    Raises:
        ValueError: there are no images or label maps, or they do not belong together.
    """
    root = Path(folder)
    pairs = [next((name for name in names if (root / name).is_dir()), "") for names in (IMAGES, LABELS)]
    if not all(pairs):
        raise ValueError(
            f"--data must be a folder with {IMAGES[0]}/ and {LABELS[0]}/, got {folder} without; or a file in COCO's format"
        )
    parted = all((root / name / split).is_dir() for name in pairs for split in ("train", "val"))
    found = [_files(root / name / ("train" if parted else "")) for name in pairs]
    names = sorted(set(found[0]) & set(found[1]))
    if not names:
        raise ValueError(f"--data must have a label map of the same name for each image, got none in {folder}")
    endings = [_endings(root / name, parted, names) for name in pairs]
    labels = [root / pairs[1] / ("train" if parted else "") / f"{name}{found[1][name]}" for name in names]
    known, words = _class_names(root, classes, labels)
    words = [f"Data: {folder}, {len(names)} images for training, {len(known)} classes.", *words]
    prefixes = [{split: f"{name}/{split}" if parted else name for split in ("train", "val")} for name in pairs]
    common = dict(
        data_root=place_of(folder, out),
        metainfo=dict(classes=known, palette=_palette(len(known))),
        img_suffix=endings[0],
        seg_map_suffix=endings[1],
    )
    lists, files = {}, {}
    if not parted:
        held = Selection(seed=seed).draw(names)
        for split in ("train", "val"):
            chosen = [name for name in names if (name in held) == (split == "val")]
            files[f"{split}.txt"] = "".join(f"{name}\n" for name in chosen)
            lists[split] = dict(ann_file=f"{HERE}/{split}.txt")
        words.append(f"{len(held)} of the images were drawn for validation (seed {seed}): train.txt, val.txt.")
    train, val = (
        {
            **common,
            "data_prefix": dict(img_path=prefixes[0][split], seg_map_path=prefixes[1][split]),
            **lists.get(split, {}),
        }
        for split in ("train", "val")
    )
    return OwnData(known, train, val, "BaseSegDataset", tuple(words), files)


def _files(folder: Path) -> dict[str, str]:
    """Return the suffixes of the images in a folder by their names."""
    return {path.stem: path.suffix for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES}


def _endings(folder: Path, parted: bool, names: Sequence[str]) -> str:
    """Return the ending that the files of a folder share; mmseg would leave out those of others without a word.

    Raises:
        ValueError: they have several.
    """
    train = _files(folder / ("train" if parted else ""))
    found = {train[name]: name for name in names} | (
        {v: k for k, v in _files(folder / "val").items()} if parted else {}
    )
    if len(found) > 1:
        listed = ", ".join(f"{name}{ending}" for ending, name in sorted(found.items()))
        raise ValueError(
            f"--data must have files of one ending in {folder}, as mmseg reads them, got {listed}; rename them"
        )
    return next(iter(found))


def _class_names(root: Path, given: Sequence[str], labels: Sequence[Path]) -> tuple[tuple[str, ...], list[str]]:
    if given:
        return tuple(given), []
    if (root / "classes.txt").is_file():
        lines = (root / "classes.txt").read_text("utf-8").splitlines()
        return tuple(line.strip() for line in lines if line.strip()), []
    if (root / "classes.json").is_file():
        names = json.loads((root / "classes.json").read_text("utf-8"))
        names = names.get("classes", list(names)) if isinstance(names, dict) else names
        return tuple(map(str, names)), []
    found: set[int] = set()
    for path in labels:
        found |= {int(label) for label in np.unique(_read_labels(path))}
    count = max(found - {IGNORED}, default=0) + 1
    words = [f"No class names were given: one for each of the labels 0 to {count - 1} (--classes, or classes.txt)."]
    return tuple(f"class {index}" for index in range(count)), words


def _read_labels(path: Path) -> np.ndarray[Any, Any]:
    """Return a label map as mmseg reads it: of an image with a palette, the indices."""
    try:
        with Image.open(path) as image:
            labels = np.asarray(image)
    except OSError as error:
        raise ValueError(f"label maps must be images, got {path}, which cannot be read ({error})") from None
    if labels.ndim != 2:
        raise ValueError(f"label maps must have one channel, whose values are labels, got {labels.shape[2]} in {path}")
    return labels


def _palette(count: int) -> list[list[int]]:
    """Return a colour for each class.

    >>> _palette(2)
    [[0, 0, 0], [97, 61, 29]]
    """
    return [[97 * index % 256, 61 * index % 256, 29 * index % 256] for index in range(count)]


def data_settings(config: Config, data: OwnData, scale: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the settings by which a config takes the data.

    Args:
        config: of a network with its data.
        data: the user's.
        scale: arguments of every `Resize` of its pipelines; None: they stay.

    Raises:
        ValueError: the config's data set is of several, or it has none.
    """
    settings: dict[str, Any] = {}
    for split, part in (("train", data.train), ("val", data.val)):
        settings[f"{split}_dataloader"] = dict(dataset=_dataset(config, split, part, data.kind, scale))
    judge: dict[str, Any] = dict(type="IoUMetric", iou_metrics=["mIoU"])
    if data.kind == "CocoDataset":
        masks = any(word in str(config.get("model")) for word in ("mask_head", THINGS))
        judge = dict(type="CocoMetric", ann_file=data.val["ann_file"], metric=["bbox", "segm"][: 1 + masks])
    settings["val_evaluator"] = instead(config, "val_evaluator", judge)
    if config.get("test_dataloader") == config.get("val_dataloader"):
        settings.update(test_dataloader=Code("val_dataloader"), test_evaluator=Code("val_evaluator"))
    elif config.get("test_dataloader"):  # of other data than those of the validation, which is what would be merged
        settings["test_dataloader"] = dict(dataset=_dataset(config, "test", data.val, data.kind, scale))
        settings["test_evaluator"] = instead(config, "test_evaluator", judge)
    if (config.get("auto_scale_lr") or {}).get("base_batch_size"):
        settings["auto_scale_lr"] = dict(enable=True)  # it is for the eight accelerators of the base
    return settings


def _dataset(config: Config, split: str, part: Mapping[str, Any], kind: str, scale: Any) -> dict[str, Any]:
    path = f"{split}_dataloader.dataset"
    dataset, depth = (config.get(f"{split}_dataloader") or {}).get("dataset"), 0
    while isinstance(dataset, Mapping) and isinstance(dataset.get("dataset"), Mapping):
        dataset, depth = dataset["dataset"], depth + 1
    if not isinstance(dataset, Mapping) or "type" not in dataset or "datasets" in dataset:
        raise ValueError(f"{path} must be one data set, whose files can be replaced by --data, got {describe(dataset)}")
    place = ".".join([path, *["dataset"] * depth])
    pipeline = _own_pipeline(dataset.get("pipeline", []), scale)
    changed: dict[str, Any] = dict(part)
    if str(dataset["type"]).split(".")[-1] == kind:
        changed.update({key: instead(dataset, key, part[key]) for key in ("metainfo", "data_prefix")})
        if pipeline != dataset.get("pipeline", []):
            changed["pipeline"] = pipeline
        plain = dict(indices=None, **(dict(reduce_zero_label=False, ann_file="") if kind == "BaseSegDataset" else {}))
        for key, value in plain.items():  # of the base's own images and labels
            if key not in part and dataset.get(key):
                changed[key] = value
    else:
        same = pipeline == dataset.get("pipeline", [])
        reference = Code(f"{{{{_base_.{place}.pipeline}}}}")
        changed = dict(_delete_=True, type=kind, **part, pipeline=reference if same else pipeline)
        if split != "train" and kind == "CocoDataset":
            changed["test_mode"] = True
    for _ in range(depth):
        changed = dict(dataset=changed)
    return changed


def _own_pipeline(pipeline: Sequence[Any], scale: Mapping[str, Any] | None) -> list[Any]:
    """Return a pipeline that takes label 0 as a class, as the base's data set may have had none there, and of a scale."""
    steps = [dict(step) for step in pipeline]
    for step in steps:
        if step.get("reduce_zero_label"):
            step["reduce_zero_label"] = False
        if scale is not None and resizing(step):
            step.update(scale)
    return steps


def head_settings(model: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Return the settings by which the heads of a model have a number of classes; empty where they have it already.

    >>> head_settings(dict(bbox_head=dict(num_classes=80), backbone=dict(num_classes=1000)), 3)
    {'bbox_head': {'num_classes': 3}}
    """
    heads = {key: value for key, value in model.items() if key.endswith("head") and key != "rpn_head"}
    changed = {key: _with_classes(value, count) for key, value in heads.items()}
    return {key: value for key, value in changed.items() if value}


def _with_classes(value: Any, count: int) -> Any:
    """Return what changes in a part of a config: keys of a dict, a whole list; None where nothing does."""
    if isinstance(value, (list, tuple)):
        parts = [_with_classes(item, count) for item in value]
        if not any(parts):
            return None
        return [_merged(item, part) if part else copy.deepcopy(item) for item, part in zip(value, parts)]
    if not isinstance(value, Mapping):
        return None
    changed: dict[str, Any] = {}
    if value.get(STUFF):
        raise ValueError(
            f"--data of objects needs a network for instances, got a panoptic one with {STUFF}={value[STUFF]}; name the config "
            "of the same network for instances, e.g. mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py"
        )
    for key, item in value.items():
        if key in ("num_classes", THINGS) and isinstance(item, int) and item != count:
            changed[key] = count
        elif part := _with_classes(item, count):
            changed[key] = part
    old = value.get("num_classes", value.get(THINGS))
    for name, loss in value.items():
        weights = loss.get("class_weight") if isinstance(loss, Mapping) else None
        if (
            {"num_classes", THINGS} & changed.keys()
            and isinstance(weights, (list, tuple))
            and len(weights) in (old, int(old or 0) + 1)
        ):
            changed.setdefault(name, {})["class_weight"] = [1.0] * count + list(weights[int(old or 0) :])
    return changed or None


def _merged(value: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(dict(value))
    for key, item in changes.items():
        merged[key] = (
            _merged(merged[key], item) if isinstance(item, Mapping) and isinstance(merged.get(key), Mapping) else item
        )
    return merged
