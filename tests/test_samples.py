"""The shipped data is what its READMEs say: counts, sizes, label values, licences."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
BLOOD = ROOT / "data" / "samples" / "blood_cells"
ROADS = ROOT / "data" / "samples" / "road_scenes"
COCO = ROOT / "tests" / "data" / "coco_tiny"
SPLITS = ("train", "val")


def table_row(folder, split):
    """Return the cells of the README's row about a split."""
    rows = re.findall(rf"^\| {split} \|(.*)\|$", (folder / "README.md").read_text(), re.MULTILINE)
    assert len(rows) == 1
    return [cell.strip() for cell in rows[0].split("|")]


def read(path, flag=cv2.IMREAD_COLOR):
    image = cv2.imread(str(path), flag)
    assert image is not None, path
    return image


@pytest.mark.parametrize("split", SPLITS)
def test_blood_cells_match_their_readme(split):
    data = json.loads((BLOOD / "annotations" / f"instances_{split}.json").read_text())
    names = {category["id"]: category["name"] for category in data["categories"]}
    assert names == {1: "RBC", 2: "WBC", 3: "Platelets"}
    counts = Counter(names[box["category_id"]] for box in data["annotations"])
    sizes = Counter(int(np.digitize(box["area"], [32**2, 96**2])) for box in data["annotations"])
    found = [len(data["images"]), len(data["annotations"]), *(counts[name] for name in names.values())]
    assert [int(cell) for cell in table_row(BLOOD, split)] == found + [sizes[size] for size in range(3)]


@pytest.mark.parametrize("split", SPLITS)
def test_blood_cell_boxes_lie_in_their_images(split):
    data = json.loads((BLOOD / "annotations" / f"instances_{split}.json").read_text())
    images = {image["id"]: image for image in data["images"]}
    files = {path.name for path in (BLOOD / "images" / split).iterdir()}
    assert files == {image["file_name"] for image in images.values()}
    for image in images.values():
        shape = read(BLOOD / "images" / split / image["file_name"]).shape
        assert shape == (image["height"], image["width"], 3) == (240, 320, 3)
    for box in data["annotations"]:
        x, y, width, height = box["bbox"]
        assert width > 0
        assert height > 0
        assert x >= 0
        assert y >= 0
        assert x + width <= 320
        assert y + height <= 240
        assert box["area"] == width * height
        assert box["image_id"] in images
        assert box["iscrowd"] == 0


@pytest.mark.parametrize("split", SPLITS)
def test_road_scenes_match_their_readme(split):
    masks = {path.stem: read(path, cv2.IMREAD_UNCHANGED) for path in (ROADS / "ann_dir" / split).glob("*.png")}
    images = {path.stem: path for path in (ROADS / "img_dir" / split).glob("*.jpg")}
    assert masks.keys() == images.keys()
    pixels, holders = np.zeros(5), np.zeros(5, int)
    for name, mask in masks.items():
        assert mask.dtype == np.uint8
        assert mask.ndim == 2
        assert read(images[name]).shape[:2] == mask.shape == (240, 320)
        assert set(np.unique(mask)) <= {0, 1, 2, 3, 4, 255}
        counts = np.bincount(mask[mask != 255], minlength=5)
        pixels += counts
        holders += counts > 0
    shares = 100 * pixels / sum(mask.size for mask in masks.values())
    cells = [f"{share:.2f} ({count})" for share, count in zip(shares, holders, strict=True)]
    assert table_row(ROADS, split) == [str(len(masks)), *cells]


def test_road_classes_match_their_readme():
    classes = json.loads((ROADS / "classes.json").read_text())
    text = (ROADS / "README.md").read_text()
    assert classes["ignore_index"] == 255
    for index, (name, color) in enumerate(zip(classes["classes"], classes["palette"], strict=True)):
        assert re.search(rf"^\| {index} \| {name}\b.*\| {', '.join(map(str, color))} \|$", text, re.MULTILINE)


@pytest.mark.parametrize("folder", [BLOOD, ROADS], ids=lambda folder: folder.name)
def test_splits_share_no_image(folder):
    images = folder / ("images" if folder == BLOOD else "img_dir")
    train, val = ({path.read_bytes() for path in (images / split).iterdir()} for split in SPLITS)
    assert not train & val
    assert min(len(train), len(val)) >= 46


def test_licences_and_attribution_are_beside_the_data():
    assert "Copyright (c) 2017 shenggan" in (BLOOD / "LICENSE.txt").read_text()
    licence = (ROADS / "LICENSE").read_text()
    assert "Copyright (c) 2024 faizanali710" in licence
    assert "CC BY 4.0" in licence
    text = " ".join((ROADS / "README.md").read_text().split())
    for part in ("by faizanali710", "https://creativecommons.org/licenses/by/4.0/", "Changed: repaired, resized"):
        assert part in text


@pytest.mark.parametrize(("split", "images"), [("train2017", 4), ("val2017", 2)])
def test_coco_tiny_is_openly_licensed_and_whole(split, images):
    data = json.loads((COCO / "annotations" / f"instances_{split}.json").read_text())
    text = (COCO / "README.md").read_text()
    assert len(data["images"]) == images == len(list((COCO / split).iterdir()))
    assert len(data["categories"]) == 80
    assert [licence["url"] for licence in data["licenses"]] == ["http://creativecommons.org/licenses/by/2.0/"]
    labelled = {box["image_id"] for box in data["annotations"]}
    for image in data["images"]:
        assert image["license"] == data["licenses"][0]["id"]
        assert image["id"] in labelled
        assert image["file_name"] in text
        assert image["flickr_url"] in text
        assert read(COCO / split / image["file_name"]).shape == (image["height"], image["width"], 3)
