"""tools/prepare_study_data.py on a small export in Roboflow's layout; the lists of the studies; their label maps."""

import importlib.util
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from freqkd.utils.errors import run_tool

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / os.environ.get("FREQKD_DATA", "../shared/data")
LISTS = sorted((ROOT / "studies" / "splits").glob("*.json"))
HASH = "0123456789abcdef0123456789abcdef"
GROUP = dict(id=0, name="houses", supercategory="none")
CLASSES = ["wall", "window"]
LICENCE = dict(id=1, name="CC BY 4.0", url="https://creativecommons.org/licenses/by/4.0/")


def load():
    spec = importlib.util.spec_from_file_location("prepare_study_data", ROOT / "tools" / "prepare_study_data.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TOOL = load()


def square(left, top, width, height):
    """The corners of a rectangle, closed as Roboflow closes its polygons."""
    right, bottom = left + width, top + height
    return [left, top, right, top, right, bottom, left, bottom, left, top]


def add(folder, images, names=("window", "wall"), group=GROUP):
    """Write an export: `images` maps file names to (width, height, objects), objects to (name, box, polygon or None)."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [group, *(dict(id=1 + index, name=name, supercategory=group["name"]) for index, name in enumerate(names))]
    ids = {row["name"]: row["id"] for row in rows}
    data = dict(licenses=[LICENCE], categories=rows, images=[], annotations=[])
    for index, (name, (width, height, objects)) in enumerate(images.items()):
        cv2.imwrite(str(folder / name), np.full((height, width, 3), 40 + index, np.uint8))
        data["images"].append(dict(id=index, license=1, file_name=name, width=width, height=height))
        for kind, box, polygon in objects:
            row = dict(id=len(data["annotations"]), image_id=index, category_id=ids[kind], bbox=box, iscrowd=0)
            row.update(area=box[2] * box[3], segmentation=[polygon] if polygon else [])
            data["annotations"].append(row)
    (folder / "_annotations.coco.json").write_text(json.dumps(data))


def exported(stem, suffix="jpg"):
    return f"{stem}_{suffix}.rf.{HASH}.jpg"


def both(name, box):
    """An object whose polygon is its box."""
    return name, box, square(*box)


@pytest.fixture
def source(tmp_path):
    """Three listed images and one that is in no list, in two folders; the classes are not in the list's order."""
    objects = [both("window", [8, 8, 16, 8]), both("wall", [0, 0, 40, 40]), both("window", [60.5, 20, 20.3, 16])]
    thin = [both("window", [10, 4, 3.1, 12])]
    add(tmp_path / "in" / "train", {exported("A_1"): (80, 40, objects), exported("C", "png_jpg"): (32, 64, thin)})
    add(tmp_path / "in" / "valid", {exported("B", "jpeg_jpg"): (20, 10, []), exported("TEST"): (20, 10, [])})
    return tmp_path / "in"


@pytest.fixture
def split(tmp_path):
    path = tmp_path / "list.json"
    path.write_text(json.dumps(dict(classes=CLASSES, train=["A_1.jpg", "B.jpg"], val=["C.jpg"])))
    return path


@pytest.fixture
def prepare(source, split, tmp_path):
    """Return `prepare(*arguments)`: runs the tool and returns the folder that it made."""

    def run(*arguments):
        out = tmp_path / "out" / "houses"
        TOOL.main([str(source), str(out), "--split", str(split), "--size", "40", *arguments])
        return out

    return run


def rows(out, split):
    return json.loads((out / "annotations" / f"instances_{split}.json").read_text())


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# ---- what is written ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("IMG_5908_scaled_0_jpg.rf.HASH.jpg", "IMG_5908_scaled_0"),
        ("IMG_6127_scaled_0_png_jpg.rf.HASH.jpg", "IMG_6127_scaled_0"),
        ("IMG_2301_jpeg_jpg.rf.HASH.jpg", "IMG_2301"),
        ("IMG_8497_MOV-0_png.rf.HASH.jpg", "IMG_8497_MOV-0"),
        ("a_jpg_b_JPG.rf.HASH.jpg", "a_jpg_b"),
        ("plain_name.jpg", "plain_name"),
    ],
)
def test_the_stem_is_the_name_before_the_export(name, stem):
    assert TOOL.stem_of(name) == stem


def test_images_are_pooled_resized_and_renamed(prepare):
    out = prepare()
    names = ["annotations/instances_train.json", "annotations/instances_val.json"]
    assert files(out) == [*names, "images/train/A_1.jpg", "images/train/B.jpg", "images/val/C.jpg"]
    shapes = {name: cv2.imread(str(out / name)).shape[:2] for name in files(out) if name.endswith("jpg")}
    assert shapes == {"images/train/A_1.jpg": (20, 40), "images/train/B.jpg": (10, 20), "images/val/C.jpg": (40, 20)}
    assert [path.name for path in out.parent.iterdir()] == ["houses"]
    images = rows(out, "train")["images"]
    assert [(image["file_name"], image["width"], image["height"]) for image in images] == [
        ("A_1.jpg", 40, 20),
        ("B.jpg", 20, 10),
    ]


def test_pixels_are_area_means_at_quality_90(source, prepare):
    texture = np.random.default_rng(0).integers(0, 256, (40, 80, 3), np.uint8)
    path = source / "train" / exported("A_1")
    cv2.imwrite(str(path), texture)
    means = cv2.resize(cv2.imread(str(path)), (40, 20), interpolation=cv2.INTER_AREA)
    expected = cv2.imencode(".jpg", means, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    assert (prepare() / "images/train/A_1.jpg").read_bytes() == expected


def test_boxes_and_polygons_are_scaled_and_cut_at_the_image(prepare):
    data = rows(prepare(), "train")
    assert data["categories"] == [dict(id=0, name="wall"), dict(id=1, name="window")]
    assert data["licenses"] == [LICENCE]
    assert data["annotations"] == [
        dict(id=0, image_id=0, category_id=1, iscrowd=0, bbox=[4.0, 4.0, 8.0, 4.0], area=32.0)
        | dict(segmentation=[square(4.0, 4.0, 8.0, 4.0)]),
        dict(id=1, image_id=0, category_id=0, iscrowd=0, bbox=[0.0, 0.0, 20.0, 20.0], area=400.0)
        | dict(segmentation=[square(0.0, 0.0, 20.0, 20.0)]),
        # 60.5 + 20.3 lies beyond 80: the box ends at the image, the area is that of the download
        dict(id=2, image_id=0, category_id=1, iscrowd=0, bbox=[30.2, 10.0, 9.8, 8.0], area=81.2)
        | dict(segmentation=[[30.2, 10.0, 40.4, 10.0, 40.4, 18.0, 30.2, 18.0, 30.2, 10.0]]),
    ]


def test_label_maps_are_painted_from_the_largest_to_the_smallest(prepare):
    out = prepare("--labels")
    expected = np.zeros((20, 40), np.uint8)
    expected[:, :21] = 1  # a polygon includes its last row and column, 40, of which every second is kept
    expected[4:9, 4:13] = 2
    expected[10:19, 30:] = 2
    painted = cv2.imread(str(out / "labels/train/A_1.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(painted, expected)
    assert [row["category_id"] for row in rows(out, "train")["annotations"]] == [0, 1, 1]  # largest first
    assert not cv2.imread(str(out / "labels/train/B.png"), cv2.IMREAD_UNCHANGED).any()


def test_an_object_below_two_pixels_is_painted_and_has_no_box(prepare, capsys):
    out = prepare("--labels")
    assert rows(out, "val")["annotations"] == []
    painted = cv2.imread(str(out / "labels/val/C.png"), cv2.IMREAD_UNCHANGED)
    assert painted[2:10, 6:9].any()
    assert "val: 1 images, 0 objects; 1 below 2 pixels left out" in capsys.readouterr().out


def test_a_smaller_image_stays_as_large_as_it_is():
    assert TOOL.resized(300, 200, 384) == (300, 200)
    assert TOOL.resized(1024, 768, 384) == (384, 288)
    assert TOOL.resized(1000, 1, 100) == (100, 1)


def test_an_export_of_boxes_has_no_segmentation(source, prepare):
    add(source / "train", {exported("A_1"): (80, 40, [("wall", [0, 0, 40, 40], None)]), exported("C"): (32, 64, [])})
    (row,) = rows(prepare(), "train")["annotations"]
    assert row == dict(id=0, image_id=0, category_id=0, iscrowd=0, bbox=[0.0, 0.0, 20.0, 20.0], area=400.0)
    with pytest.raises(ValueError, match=r"--labels needs a polygon of every object, got 1 images .* A_1; download"):
        prepare_again(source, "--labels")


def prepare_again(source, *arguments):
    """Run the tool beside a folder that is made already."""
    folder = source.parent
    TOOL.main([str(source), str(folder / "again"), "--split", str(folder / "list.json"), *arguments])


def test_the_group_of_the_classes_may_have_the_name_of_a_class(source, prepare):
    for name in ("train", "valid"):
        text = (source / name / "_annotations.coco.json").read_text()
        (source / name / "_annotations.coco.json").write_text(text.replace("houses", "wall"))
    assert [row["category_id"] for row in rows(prepare(), "train")["annotations"]] == [1, 0, 1]


# ---- what is refused ------------------------------------------------------------------------------------------------


def refused(prepare, out, match, *arguments):
    """The tool refuses, and leaves nothing behind."""
    with pytest.raises(ValueError, match=match):
        prepare(*arguments)
    assert not out.exists() or not list(out.iterdir())


@pytest.fixture
def parent(tmp_path):
    """The folder above OUT, where a draft would lie."""
    return tmp_path / "out"


def test_missing_images_are_counted(source, prepare, parent):
    (source / "train" / exported("A_1")).unlink()
    add(source / "valid", {})
    refused(prepare, parent, r"SOURCE must hold every image of --split, got .* without 2 of 3: A_1, B; download")


def test_copies_of_an_image_are_refused(source, prepare, parent):
    add(source / "test", {f"B_jpg.rf.{HASH[::-1]}.jpg": (20, 10, [])})
    refused(prepare, parent, r"SOURCE must hold every image once, got 1 of 3 more than once: B; name the folder of one")


def test_copies_of_an_image_that_is_not_listed_do_no_harm(source, prepare):
    add(source / "test", {f"TEST_jpg.rf.{HASH[::-1]}.jpg": (20, 10, [])})
    assert prepare().exists()


def test_other_classes_are_refused(source, prepare, parent):
    add(source / "test", {}, names=("wall", "window", "door"))
    refused(prepare, parent, "--split must list every class of the download, got door in .* and the list has wall, win")


def test_an_object_of_the_group_is_refused(source, prepare, parent):
    add(source / "test", {exported("D"): (20, 10, [both("houses", [0, 0, 9, 9])])})
    refused(prepare, parent, "--split must list every class of the download, got houses in ")


def test_a_class_that_the_export_lacks_is_refused(split, prepare, parent):
    split.write_text(json.dumps(dict(classes=[*CLASSES, "door"], train=["A_1.jpg"], val=["C.jpg"])))
    refused(prepare, parent, "SOURCE must know every class of --split, got none named door in ")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "must be a JSON file, got one that cannot be read .*; write or download it again"),
        ("[]", "--split must be a JSON file with three lists of names"),
        ('{"classes": ["a"], "train": ["b.jpg"], "val": [3]}', "--split must be a JSON file with three lists of names"),
        ('{"classes": ["a", "a"], "train": ["b.jpg"], "val": ["c.jpg"]}', "every class once, got a more than once"),
        ('{"classes": ["a"], "train": ["b.jpg"], "val": ["b.png"]}', "every image once, got b more than once"),
    ],
)
def test_a_wrong_list_is_refused(split, prepare, parent, text, match):
    split.write_text(text)
    refused(prepare, parent, match)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("annotations", [dict(image_id=0, category_id=9, bbox=[0, 0, 1, 1], area=1)]),
        ("annotations", [dict(image_id=0, category_id=1, bbox=[0, 0, 1], area=1)]),
        ("annotations", [dict(image_id=0, category_id=1, bbox=[0, 0, 1, 1], area=1, segmentation=dict(counts=""))]),
        ("annotations", [dict(image_id=0, category_id=1, bbox=[0, 0, 1, 1], area=1, segmentation=[[1, 2, 3]])]),
        ("images", None),
    ],
)
def test_annotations_of_another_format_are_refused(source, prepare, parent, key, value):
    path = source / "train" / "_annotations.coco.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    refused(prepare, parent, "must hold annotations in the format COCO, got ")


def test_an_image_that_is_not_what_its_annotations_say_is_refused(source, prepare, parent):
    path = source / "train" / exported("C", "png_jpg")
    cv2.imwrite(str(path), np.zeros((32, 64, 3), np.uint8))
    refused(prepare, parent, "must be 32 x 64 as its annotations say, got 64 x 32; download")
    path.write_bytes(b"no image")
    refused(prepare, parent, "must be an image, got one that cannot be read")


def test_other_folders_and_sizes_are_refused(tmp_path, source, prepare, parent):
    refused(prepare, parent, "--size must be at least 1, got 0; the studies use 384", "--size", "0")
    prepare()
    with pytest.raises(ValueError, match="OUT must be a new or an empty folder, got "):
        prepare()
    (tmp_path / "again").mkdir()
    prepare_again(source)
    assert (tmp_path / "again" / "images").is_dir()
    with pytest.raises(ValueError, match=r"SOURCE must be a folder with _annotations.coco.json in it or below, got "):
        TOOL.main([str(tmp_path / "out"), str(tmp_path / "new"), "--split", str(tmp_path / "list.json")])


def test_a_refusal_is_one_line_and_exit_code_1(source, split, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("FREQKD_TRACEBACK", raising=False)
    (source / "train" / exported("A_1")).unlink()
    assert run_tool(TOOL.main, [str(source), str(tmp_path / "new"), "--split", str(split)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: SOURCE must hold every image of --split")
    assert error.count("\n") == 1


# ---- the lists, and the data of the studies where they are there ----------------------------------------------------


def each_list():
    return pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)


def data_of(name):
    if not (DATA / name).is_dir():
        pytest.skip(f"{name} is not in FREQKD_DATA")
    return DATA / name


@each_list()
def test_a_list_can_be_read_and_has_the_classes_of_the_configs(path):
    classes, stems = TOOL.read_list(path)
    configs = sorted((ROOT / "configs/_base_/datasets").glob(f"{path.stem}*.py"))
    assert configs
    for config in configs:
        names = list(Config.fromfile(config).metainfo.classes)
        assert (["background", *classes] if names[0] == "background" else classes) == names
    counts = {"aquarium": (448, 127), "facades": (401, 105)}
    assert (len(stems["train"]), len(stems["val"])) == counts[path.stem]


def test_two_crops_of_one_photograph_are_in_one_split():
    _, stems = TOOL.read_list(ROOT / "studies/splits/facades.json")
    train, val = ({stem.rpartition("_scaled_")[0] for stem in stems[split]} for split in ("train", "val"))
    assert not train & val


@each_list()
def test_a_list_names_the_files_that_are_there(path):
    folder, listed = data_of(path.stem), json.loads(path.read_text())
    for split in TOOL.SPLITS:
        assert listed[split] == sorted(file.name for file in (folder / "images" / split).iterdir())
        data = rows(folder, split)
        assert listed[split] == sorted(image["file_name"] for image in data["images"])
        assert [row["name"] for row in sorted(data["categories"], key=lambda row: row["id"])] == listed["classes"]


def test_the_label_maps_of_the_facades_are_painted_as_here():
    """Their polygons were painted at 1024 pixels, and are here with a digit of a pixel at 384, so that edges differ.

    What is thinner than 2 pixels is missing here. From the polygons of the download, all pixels agree.
    """
    folder = data_of("facades")
    data = rows(folder, "val")
    shares = []
    for image in data["images"][::21]:
        objects = [
            TOOL.StudyObject(
                row["category_id"],
                tuple(row["bbox"]),
                row["area"],
                [[number * 1024 / 384 for number in polygon] for polygon in row["segmentation"]],
            )
            for row in data["annotations"]
            if row["image_id"] == image["id"]
        ]
        painted = TOOL.paint_labels(objects, 1024, 1024, (image["width"], image["height"]))
        path = folder / "labels/val" / f"{Path(image['file_name']).stem}.png"
        shares.append((painted == cv2.imread(str(path), cv2.IMREAD_UNCHANGED)).mean())
    assert len(shares) == 5
    assert np.mean(shares) == pytest.approx(0.9986, abs=0.0002)  # of all 506 maps: 0.9990, the least 0.9969
    assert min(shares) > 0.9975
