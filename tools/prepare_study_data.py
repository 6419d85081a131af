"""Make the data of a study from your own download: the listed images, resized, with their boxes, polygons and label maps.

The download is a data set that Roboflow exported in the format COCO (COCO Segmentation for --labels), unpacked: folders with
images and one `_annotations.coco.json` each. Its own splits are pooled; the list says which image belongs to which split, and
images that are not listed are passed over. An object narrower or lower than 2 pixels after the resizing is left out of the
boxes, but its polygon is painted.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from freqkd.apis.arguments import run_tool
from freqkd.utils.errors import EPILOG
from freqkd.utils.files import DRAFT, check_writable

ANNOTATIONS = "_annotations.coco.json"
SPLITS = ("train", "val")
SMALLEST = 2  # pixels of the shorter side of a box, after the resizing
JPEG_QUALITY = 90
_EXPORTED = re.compile(r"(.+?)(?:_(?:jpe?g|png))+\.rf\.", re.I)


class StudyObject(NamedTuple):
    """One object of an image, in pixels of the download."""

    label: int  # index of its class
    box: tuple[float, float, float, float]  # left, top, width, height
    area: float
    polygons: list[list[float]]  # x, y, x, y, ...


class StudyImage(NamedTuple):
    """One image of the download."""

    path: Path
    width: int
    height: int
    licence: int | None
    objects: list[StudyObject]


class Download(NamedTuple):
    """Everything below a folder: the images by stem, the names of their classes, the rows about licences."""

    images: dict[str, list[StudyImage]]
    names: set[str]
    licences: dict[int, dict[str, Any]]


# ---- the list -------------------------------------------------------------------------------------------------------


def stem_of(name: str) -> str:
    """Return the name that an image had before Roboflow exported it: IMG_1_png_jpg.rf.HASH.jpg was IMG_1."""
    found = _EXPORTED.match(Path(name).name)
    return found[1] if found else Path(name).stem


def first_of(names: Iterable[str]) -> str:
    """Return the first five names, and how many more there are."""
    ordered = sorted(names)
    return ", ".join(ordered[:5]) + (f" and {len(ordered) - 5} more" if len(ordered) > 5 else "")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} must be a JSON file, got one that cannot be read ({error}); write or download it again"
        ) from error


def read_list(path: Path) -> tuple[list[str], dict[str, list[str]]]:
    """Read the classes of a list, and the stems of its images by split.

    Raises:
        ValueError: it is no such list, or names a class or an image twice.
    """
    data = read_json(path)
    parts: list[Any] = [data.get(key) if isinstance(data, dict) else None for key in ("classes", *SPLITS)]
    if not all(isinstance(part, list) and part and all(isinstance(name, str) for name in part) for part in parts):
        raise ValueError(
            f"--split must be a JSON file with three lists of names, classes, train and val, got {path}; see studies/splits/"
        )
    classes, *images = parts
    if len(classes) > 255:
        raise ValueError(
            f"--split must have at most 255 classes, as label maps are 8 bit, got {len(classes)} in {path}"
        )
    stems = {split: [Path(name).stem for name in names] for split, names in zip(SPLITS, images)}
    for kind, names in (("class", classes), ("image", [stem for part in stems.values() for stem in part])):
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise ValueError(
                f"--split must name every {kind} once, got {first_of(twice)} more than once in {path}; "
                "remove what is repeated"
            )
    return classes, stems


# ---- the download ---------------------------------------------------------------------------------------------------


def _parse_polygons(value: Any) -> list[list[float]]:
    if isinstance(value, dict):
        raise ValueError("a mask that is no polygon")
    polygons = [[float(number) for number in polygon] for polygon in value or []]
    if any(len(polygon) % 2 or not polygon for polygon in polygons):
        raise ValueError("a polygon that is no list of x and y")
    return polygons


def read_export(path: Path, classes: Sequence[str], download: Download) -> None:
    """Add the images of one annotation file to a download.

    Raises:
        ValueError: it is not in the format COCO, or has a class that is not listed.
    """
    data = read_json(path)
    try:
        rows = {row["id"]: (str(row["name"]), row.get("supercategory")) for row in data["categories"]}
        licences = {row["id"]: dict(row) for row in data.get("licenses") or []}
        images = {
            row["id"]: StudyImage(
                path.parent / row["file_name"], int(row["width"]), int(row["height"]), row.get("license"), []
            )
            for row in data["images"]
        }
        found = []
        for row in data["annotations"]:
            left, top, width, height = (float(number) for number in row["bbox"])
            name, polygons = rows[row["category_id"]][0], _parse_polygons(row.get("segmentation"))
            area = float(row["area"])
            found.append((images[row["image_id"]], name, (left, top, width, height), area, polygons))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path} must hold annotations in the format COCO, got {type(error).__name__}: {error}; "
            "download the export again in that format"
        ) from error
    # Roboflow gives the group of all classes a row of its own, which no object uses.
    groups = {name for name, group in rows.values() if group == "none"} & {group for _, group in rows.values()}
    unlisted = {name for name, _ in rows.values()} - groups | {name for _, name, *_ in found}
    if unlisted := unlisted - set(classes):
        raise ValueError(
            f"--split must list every class of the download, got {first_of(unlisted)} in {path}, and the list has "
            f"{', '.join(classes)}; name the list of this data set"
        )
    for image, name, box, area, polygons in found:
        image.objects.append(StudyObject(classes.index(name), box, area, polygons))
    for image in images.values():
        download.images[stem_of(image.path.name)].append(image)
    download.names.update(name for name, _ in rows.values())
    download.licences.update(licences)


def read_download(source: Path, classes: Sequence[str]) -> Download:
    """Read every annotation file below a folder.

    Raises:
        ValueError: there is none, one is refused by `read_export`, or a class of the list is in none.
    """
    paths = sorted(source.rglob(ANNOTATIONS))
    if not paths:
        raise ValueError(
            f"SOURCE must be a folder with {ANNOTATIONS} in it or below, got {source}, which has none; "
            "download the export in the format COCO and unpack it"
        )
    download = Download(defaultdict(list), set(), {})
    for path in paths:
        read_export(path, classes, download)
    if absent := set(classes) - download.names:
        raise ValueError(
            f"SOURCE must know every class of --split, got none named {first_of(absent)} in {source}; "
            "download the export with all its classes"
        )
    return download


def pick_images(download: Download, stems: Sequence[str], source: Path, labels: bool) -> dict[str, StudyImage]:
    """Return the listed images by stem.

    Raises:
        ValueError: one is missing, is there more than once, or has an object without a polygon where `labels` need it.
    """
    found = {stem: download.images.get(stem, []) for stem in stems}
    if missing := [stem for stem, images in found.items() if not any(image.path.is_file() for image in images)]:
        raise ValueError(
            f"SOURCE must hold every image of --split, got {source} without {len(missing)} of {len(stems)}: "
            f"{first_of(missing)}; download the whole export, with all its splits"
        )
    if several := [stem for stem, images in found.items() if len(images) > 1]:
        raise ValueError(
            f"SOURCE must hold every image once, got {len(several)} of {len(stems)} more than once: {first_of(several)}; "
            "name the folder of one export, without augmented copies"
        )
    picked = {stem: images[0] for stem, images in found.items()}
    bare = [stem for stem, image in picked.items() if any(not one.polygons for one in image.objects)]
    if labels and bare:
        raise ValueError(
            f"--labels needs a polygon of every object, got {len(bare)} images with an object that has none: "
            f"{first_of(bare)}; download the format COCO Segmentation, or leave --labels out"
        )
    return picked


# ---- images, boxes, label maps --------------------------------------------------------------------------------------


def resized(width: int, height: int, size: int) -> tuple[int, int]:
    """Return the width and height of an image whose longer side is `size` at most; it is never enlarged."""
    scale = min(1.0, size / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def largest_first(objects: Iterable[StudyObject]) -> list[StudyObject]:
    return sorted(objects, key=lambda one: -one.area)


def paint_labels(objects: Iterable[StudyObject], width: int, height: int, size: tuple[int, int]) -> np.ndarray:
    """Paint polygons from the largest area to the smallest: 0 is nothing, 1 the first class.

    They are painted in the pixels of the download, with coordinates rounded to whole pixels, and the map is then brought to
    `size` (width, height) by nearest neighbours.
    """
    labels = np.zeros((height, width), np.uint8)
    for one in largest_first(objects):
        for polygon in one.polygons:
            points = np.round(np.array(polygon).reshape(-1, 2)).astype(np.int32)
            cv2.fillPoly(labels, [points], one.label + 1)
    return cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)


def scaled_row(one: StudyObject, image: StudyImage, size: tuple[int, int]) -> dict[str, Any] | None:
    """Return an object as COCO has it, its box inside the image; None where it is below `SMALLEST` pixels."""
    factors = (size[0] / image.width, size[1] / image.height)
    left, top, width, height = one.box
    edges = (np.clip([left, left + width], 0, image.width), np.clip([top, top + height], 0, image.height))
    (left, right), (top, bottom) = (edge * factor for edge, factor in zip(edges, factors))
    if min(right - left, bottom - top) < SMALLEST:
        return None
    row: dict[str, Any] = dict(category_id=one.label, iscrowd=0)
    row["bbox"] = [round(float(number), 1) for number in (left, top, right - left, bottom - top)]
    row["area"] = round(one.area * factors[0] * factors[1], 1)
    if one.polygons:
        row["segmentation"] = [
            [round(number * factors[index % 2], 1) for index, number in enumerate(polygon)] for polygon in one.polygons
        ]
    return row


def _encode(suffix: str, image: np.ndarray, path: Path, options: Sequence[int] = ()) -> None:
    path.write_bytes(cv2.imencode(suffix, image, options)[1].tobytes())


def write_split(folder: Path, split: str, images: dict[str, StudyImage], size: int, labels: bool) -> dict[str, Any]:
    """Write the images of one split, and their label maps, into a folder; return its rows about images and objects.

    Raises:
        ValueError: an image cannot be read, or has another size than its annotations say.
    """
    rows: dict[str, Any] = dict(images=[], annotations=[])
    for kind in ("images", "labels") if labels else ("images",):
        (folder / kind / split).mkdir(parents=True)
    for index, (stem, image) in enumerate(sorted(images.items())):
        pixels = cv2.imread(str(image.path), cv2.IMREAD_COLOR)
        if pixels is None:
            raise ValueError(f"{image.path} must be an image, got one that cannot be read; download it again")
        if pixels.shape[:2] != (image.height, image.width):
            raise ValueError(
                f"{image.path} must be {image.width} x {image.height} as its annotations say, got {pixels.shape[1]} x "
                f"{pixels.shape[0]}; download images and annotations again, from one export"
            )
        shape = resized(image.width, image.height, size)
        if shape != (image.width, image.height):
            pixels = cv2.resize(pixels, shape, interpolation=cv2.INTER_AREA)
        quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        _encode(".jpg", pixels, folder / "images" / split / f"{stem}.jpg", quality)
        if labels:
            painted = paint_labels(image.objects, image.width, image.height, shape)
            _encode(".png", painted, folder / "labels" / split / f"{stem}.png")
        row = dict(id=index, file_name=f"{stem}.jpg", height=shape[1], width=shape[0])
        rows["images"].append(row if image.licence is None else dict(row, license=image.licence))
        for one in largest_first(image.objects) if labels else image.objects:
            if scaled := scaled_row(one, image, shape):
                rows["annotations"].append(dict(id=len(rows["annotations"]), image_id=index, **scaled))
    return rows


def check_out(out: Path) -> None:
    """Raise ValueError where a folder cannot be made, or already holds something."""
    check_writable("folder", out.parent, "OUT")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(
            f"OUT must be a new or an empty folder, got {out}, which is neither; name another, or remove it"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG)
    parser.add_argument("source", metavar="SOURCE", type=Path, help="folder of the unpacked download")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to make")
    parser.add_argument("--split", required=True, type=Path, help="list of classes and images, see studies/splits/")
    parser.add_argument("--size", type=int, default=384, help="pixels of the longer side at most; default 384")
    parser.add_argument("--labels", action="store_true", help="also paint the polygons into label maps")
    options = parser.parse_args(arguments)
    if options.size < 1:
        raise ValueError(f"--size must be at least 1, got {options.size}; the studies use 384")
    out = options.out.resolve()
    check_out(out)
    classes, stems = read_list(options.split)
    download = read_download(options.source, classes)
    listed = [stem for split in SPLITS for stem in stems[split]]
    picked = pick_images(download, listed, options.source, options.labels)
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=DRAFT))
    try:
        (folder / "annotations").mkdir()
        for split in SPLITS:
            images = {stem: picked[stem] for stem in stems[split]}
            rows = write_split(folder, split, images, options.size, options.labels)
            head = dict(
                info=dict(description=f"at most {options.size} pixels"),
                licenses=list(download.licences.values()),
                categories=[dict(id=index, name=name) for index, name in enumerate(classes)],
            )
            text = json.dumps({**head, **rows})
            (folder / "annotations" / f"instances_{split}.json").write_text(text, encoding="utf-8")
            small = sum(len(image.objects) for image in images.values()) - len(rows["annotations"])
            print(
                f"{split}: {len(images)} images, {len(rows['annotations'])} objects; {small} below {SMALLEST} pixels left out"
            )
        folder.chmod(0o755)
        if out.exists():
            out.rmdir()
        folder.rename(out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    print(f"Wrote {options.out}")


if __name__ == "__main__":
    sys.exit(run_tool(main))
