"""Checks of data sets before a run: what the run will read, and no more."""

import importlib.util
import json
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from freqkd.apis.preflight import check_parts
from freqkd.apis.preflight import data as data_checks
from freqkd.apis.preflight.data import DataError, check_data, evenly
from freqkd.utils.compat import read_config

ROOT = Path(__file__).resolve().parents[2]
CELLS = "configs/baselines/retinanet_r18w16_b8-12e_blood-cells.py"
ROADS = "configs/baselines/semantic-fpn_r18w16_b8-300i_road-scenes.py"


@pytest.fixture
def cells(tmp_path, monkeypatch):
    """The config of the blood cells on three images of their own."""
    monkeypatch.chdir(ROOT)
    source = ROOT / "data/samples/blood_cells"
    whole = json.loads((source / "annotations/instances_train.json").read_text())
    whole["images"] = whole["images"][:3]
    known = {image["id"] for image in whole["images"]}
    whole["annotations"] = [box for box in whole["annotations"] if box["image_id"] in known]
    (tmp_path / "images").mkdir()
    for image in whole["images"]:
        shutil.copy(source / "images/train" / image["file_name"], tmp_path / "images")
    (tmp_path / "train.json").write_text(json.dumps(whole))
    config = read_config(CELLS)
    config.train_dataloader.dataset.update(
        data_root=f"{tmp_path}/", ann_file="train.json", data_prefix=dict(img="images/")
    )
    return config


@pytest.fixture
def roads(tmp_path, monkeypatch):
    """The config of the road scenes on one image, whose map a test may paint."""
    monkeypatch.chdir(ROOT)
    source = ROOT / "data/samples/road_scenes"
    name = sorted((source / "img_dir/train").glob("*.jpg"))[0].stem
    for folder, suffix in (("img_dir", ".jpg"), ("ann_dir", ".png")):
        (tmp_path / folder / "train").mkdir(parents=True)
        shutil.copy(source / folder / "train" / f"{name}{suffix}", tmp_path / folder / "train" / f"one{suffix}")
    config = read_config(ROADS)
    config.train_dataloader.dataset.data_root = f"{tmp_path}/"
    return config


def paint(folder, labels):
    Image.fromarray(labels.astype(np.uint8)).save(folder / "ann_dir/train/one.png")


def test_good_data_gives_a_sample_of_each_split(cells, capsys):
    samples = check_data(cells)
    assert set(samples) == {"train", "val"}
    assert tuple(samples["train"]["inputs"].shape) == (3, 240, 320)
    assert capsys.readouterr().err == ""


def test_a_pickle_is_read_where_it_is_trusted(cells, tmp_path):
    """The data set of MMEngine's own format, which takes a pickle."""
    entry = dict(img_path=str(next((tmp_path / "images").iterdir())), height=240, width=320, instances=[])
    (tmp_path / "all.pkl").write_bytes(pickle.dumps(dict(metainfo={}, data_list=[entry])))
    dataset = dict(type="BaseDetDataset", ann_file="all.pkl", data_root=f"{tmp_path}/", pipeline=[])
    cells.train_dataloader.dataset = Config(dataset)._cfg_dict
    with pytest.raises(DataError, match=r"all\.pkl can run code when it is read.*--trust-checkpoint"):
        check_data(cells, ("train",))
    with pytest.raises(DataError, match="pipeline must give a dict with 'inputs'"):  # so it was read
        check_data(cells, ("train",), trust=True)


@pytest.mark.parametrize("limit", [10, data_checks.LARGE])
def test_images_of_large_and_small_files_are_looked_for(cells, tmp_path, monkeypatch, limit):
    monkeypatch.setattr(data_checks, "LARGE", limit)
    check_data(cells, ("train",))
    next((tmp_path / "images").iterdir()).unlink()
    with pytest.raises(
        DataError, match=r"1 of 3 image files cannot be used, first .*: not found; .*train\.json names it"
    ):
        check_data(cells, ("train",))


def test_a_data_set_inside_a_mixture_packs_nothing_itself(cells):
    inner = cells.train_dataloader.dataset
    packing = inner.pipeline.pop()
    mixed = dict(type="MultiImageMixDataset", dataset=inner, pipeline=[packing])
    cells.train_dataloader.dataset = Config(mixed)._cfg_dict
    assert check_data(cells, ("train",)) == {}


def test_a_data_set_of_a_server_is_left_alone(cells):
    cells.train_dataloader.dataset.update(data_root="/nowhere", backend_args=dict(backend="petrel"))
    assert check_data(cells, ("train",)) == {}


def test_fewer_classes_than_the_head_are_a_warning(cells, capsys):
    cells.model.bbox_head.num_classes = 7
    check_data(cells, ("train",))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: train_dataloader: the data set has 3 classes, bbox_head.num_classes is 7")


def test_classes_of_a_head_of_masks_are_compared(cells):
    cells.model = dict(panoptic_head=dict(type="Mask2FormerHead", num_things_classes=2, num_stuff_classes=0))
    with pytest.raises(ValueError, match=r"has 3 classes, and panoptic_head\.num_things_classes is 2: it must"):
        check_data(cells, ("train",))
    cells.model.panoptic_head.num_stuff_classes = 1  # the data do not say which are things
    assert check_data(cells, ("train",))


def test_labels_are_compared_as_the_pipeline_reads_them(roads, tmp_path):
    labels = np.full((240, 320), 5)
    labels[0, 0] = 255
    paint(tmp_path, labels)
    with pytest.raises(DataError, match=r"one\.png has labels \[5\], and decode_head\.num_classes is 5"):
        check_data(roads, ("train",))
    roads.train_dataloader.dataset.reduce_zero_label = True  # 5 becomes 4
    check_data(roads, ("train",))
    roads.train_dataloader.dataset.reduce_zero_label = False
    roads.train_dataloader.dataset.metainfo = dict(classes=("background", "obstacle"))
    roads.model.decode_head.ignore_index = 5
    paint(tmp_path, np.full((240, 320), 5))
    check_data(roads, ("train",))


def test_maps_are_needed_where_they_are_read(roads, tmp_path):
    (tmp_path / "ann_dir/train/one.png").unlink()
    (tmp_path / "ann_dir/train/other.png").touch()
    with pytest.raises(DataError, match=r"1 of 1 segmentation map files cannot be used, first .*one\.png: not found"):
        check_data(roads, ("train",))
    roads.train_dataloader.dataset.pipeline = [
        one for one in roads.train_dataloader.dataset.pipeline if one.type in ("LoadImageFromFile", "PackSegInputs")
    ]
    check_data(roads, ("train",))


def test_a_map_must_be_as_large_as_its_image(roads, tmp_path):
    paint(tmp_path, np.zeros((120, 160)))
    with pytest.raises(
        DataError, match=r"must be as large as its image, got \(120, 160\) for an image of \(240, 320\)"
    ):
        check_data(roads, ("train",))


def test_the_chosen_lie_evenly():
    assert evenly([1, 2], 5) == [1, 2]
    chosen = evenly(range(118_287), 5_000)
    assert len(chosen) == 5_000
    assert (chosen[0], chosen[-1]) == (0, 118_286)
    assert {*np.diff(chosen)} == {23, 24}


# ---- what plain mmdet and mmseg read -------------------------------------------------------------------------------------

OWN = """
from pathlib import Path

from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import BaseDetDataset, CocoDataset
from mmdet.registry import DATASETS, TRANSFORMS


@DATASETS.register_module(force=True)
class TextFolder(BaseDetDataset):
    METAINFO = dict(classes=('RBC', 'WBC', 'Platelets'))

    def load_data_list(self):
        files = sorted(Path(self.ann_file).glob('*.txt'))
        return [
            dict(img_path=f'{self.data_prefix["img"]}{file.stem}.jpg', img_id=index, height=240, width=320, instances=[
                dict(bbox=[1.0, 2.0, 30.0, 40.0], bbox_label=int(file.read_text()), ignore_flag=0)])
            for index, file in enumerate(files)
        ]


@DATASETS.register_module(force=True)
class Templated(CocoDataset):
    '''Names are templates of the class's own, and are filled when an image is read.'''

    def parse_data_info(self, raw_data_info):
        found = super().parse_data_info(raw_data_info)
        return {**found, 'img_path': '{folder}' + found['img_path']}

    def get_data_info(self, index):
        found = super().get_data_info(index)
        return {**found, 'img_path': found['img_path'].format(folder='')}

    def full_init(self):
        super().full_init()


@TRANSFORMS.register_module(force=True)
class LoadFromTemplate(LoadImageFromFile):
    pass


@DATASETS.register_module(force=True)
class Archive(CocoDataset):
    '''Its paths are no files.'''

    def _join_prefix(self):
        self.opened = f'archive of {self.data_root}'

    def load_data_list(self):
        return [dict(img_path=f'{self.opened}#{index}', img_id=index, height=8, width=8, instances=[]) for index in range(3)]

    def filter_data(self):
        return self.data_list
"""


@pytest.fixture(scope="module")
def own_classes(tmp_path_factory):
    """Data sets of a user's own module."""
    path = tmp_path_factory.mktemp("own") / "own_data.py"
    path.write_text(OWN)
    spec = importlib.util.spec_from_file_location("own_data", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["own_data"] = module  # mmengine asks where a class is defined
    spec.loader.exec_module(module)
    yield module
    del sys.modules["own_data"]


def test_annotations_may_be_a_folder(cells, tmp_path, own_classes):
    (tmp_path / "labels").mkdir()
    for image in (tmp_path / "images").iterdir():
        (tmp_path / "labels" / f"{image.stem}.txt").write_text("1")
    cells.train_dataloader.dataset.update(
        type="TextFolder", ann_file="labels", data_prefix=dict(img=f"{tmp_path}/images/")
    )
    sample = check_data(cells, ("train",))["train"]
    assert sample["data_samples"].gt_instances.labels.tolist() == [1]
    cells.train_dataloader.dataset.update(type="CocoDataset", data_prefix=dict(img="images/"))
    with pytest.raises(DataError, match="annotation file is a folder, and must be a file"):
        check_data(cells, ("train",))


def test_a_segmentation_set_lists_its_images_where_its_annotations_are_a_folder(roads, tmp_path):
    roads.train_dataloader.dataset.ann_file = "ann_dir/train"  # as mmseg allows
    assert set(check_data(roads, ("train",))) == {"train"}


def test_a_class_reads_its_images_by_its_own_rules(cells, own_classes):
    cells.train_dataloader.dataset.type = "Templated"
    cells.train_dataloader.dataset.pipeline[0].type = "LoadFromTemplate"
    assert check_data(cells, ("train",)) == {}  # its `full_init` is its own
    del own_classes.Templated.full_init
    assert set(check_data(cells, ("train",))) == {"train"}


def test_a_class_whose_paths_are_no_files_is_read_by_its_own_loader(cells, own_classes, monkeypatch):
    def read(self, results):
        return {**results, "img": np.zeros((8, 8, 3), np.uint8), "img_shape": (8, 8), "ori_shape": (8, 8)}

    monkeypatch.setattr(own_classes.LoadFromTemplate, "transform", read)
    cells.train_dataloader.dataset.update(type="Archive", data_root="/nowhere/all.zip", ann_file="nowhere.json")
    pipeline = cells.train_dataloader.dataset.pipeline
    pipeline[0].type = "LoadFromTemplate"
    cells.train_dataloader.dataset.pipeline = [
        pipeline[0],
        pipeline[1],
        dict(type="PackDetInputs", meta_keys=("img_id",)),
    ]
    assert tuple(check_data(cells, ("train",))["train"]["inputs"].shape) == (3, 8, 8)


@pytest.mark.parametrize("place", ["ann_file", "data_prefix"])
def test_data_of_a_server_are_left_alone_whoever_names_it(cells, place):
    dataset = cells.train_dataloader.dataset
    dataset[place] = dict(img="s3://bucket/images/") if place == "data_prefix" else "https://bucket/all.json"
    assert check_data(cells, ("train",)) == {}
    cells.model.bbox_head.num_classes = 2  # what needs no file is checked all the same
    with pytest.raises(DataError, match=r"has 3 classes, and bbox_head\.num_classes is 2"):
        check_data(cells, ("train",))


def test_a_metric_of_a_server_is_left_alone(cells):
    cells.val_evaluator.update(ann_file="s3://bucket/all.json")
    check_parts(cells, "train")
    cells.val_evaluator.update(ann_file="nowhere.json", backend_args=dict(backend="petrel"))
    check_parts(cells, "train")
    cells.val_evaluator.pop("backend_args")
    with pytest.raises(ValueError, match=r"val_evaluator\.ann_file not found"):
        check_parts(cells, "train")


def test_a_root_that_nothing_is_joined_to_need_not_exist(cells, tmp_path):
    dataset = cells.train_dataloader.dataset
    dataset.update(
        ann_file=f"{tmp_path}/train.json", data_prefix=dict(img=f"{tmp_path}/images/"), data_root="data/coco/"
    )
    assert set(check_data(cells, ("train",))) == {"train"}
    dataset.ann_file = "train.json"
    with pytest.raises(DataError, match="data folder not found: data/coco/"):
        check_data(cells, ("train",))


def test_a_panoptic_set_has_boxes_of_its_things_only(cells, tmp_path):
    """Its annotations have segments in place of boxes, and its heads fewer classes than it."""
    content = json.loads((tmp_path / "train.json").read_text())
    names = [entry["name"] for entry in content["categories"]]
    ids = [entry["id"] for entry in content["categories"]]
    content["categories"] = [dict(id=key, name=name, isthing=name != names[2]) for key, name in zip(ids, names)]
    (tmp_path / "segments").mkdir()
    content["annotations"] = []
    for image in content["images"]:
        Image.new("RGB", (320, 240), (7, 0, 0)).save(tmp_path / "segments" / f"{image['id']}.png")
        segment = dict(id=7, category_id=ids[0], bbox=[0, 0, 320, 240], area=76800, iscrowd=0)
        content["annotations"].append(
            dict(image_id=image["id"], file_name=f"{image['id']}.png", segments_info=[segment])
        )
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    dataset = cells.train_dataloader.dataset
    dataset.update(
        type="CocoPanopticDataset",
        ann_file="panoptic.json",
        data_prefix=dict(img="images/", seg="segments/"),
        metainfo=dict(classes=names, thing_classes=names[:2], stuff_classes=names[2:]),
    )
    dataset.pipeline = [
        dict(type="LoadImageFromFile"),
        dict(type="PackDetInputs", meta_keys=("img_id",)),
    ]
    cells.model.bbox_head.num_classes = 2
    assert set(check_data(cells, ("train",))) == {"train"}


def test_labels_that_a_transform_of_ones_own_changes_are_not_judged(roads, tmp_path, own_classes, monkeypatch):
    paint(tmp_path, np.full((240, 320), 9))
    with pytest.raises(DataError, match="has labels"):
        check_data(roads, ("train",))

    def halved(self, results):
        return {**results, "gt_seg_map": results["gt_seg_map"] // 3}

    monkeypatch.setattr(own_classes.LoadFromTemplate, "transform", halved)
    roads.train_dataloader.dataset.pipeline.insert(2, dict(type="mmdet.LoadFromTemplate"))
    sample = check_data(roads, ("train",))["train"]
    assert sample["data_samples"].gt_sem_seg.data.unique().tolist() == [3]


# ---- kinds of images ---------------------------------------------------------------------------------------------------


def repaint(folder, change, suffix=".jpg", every=True):
    """Store the images of a folder in another form; return their names."""
    names = []
    for index, path in enumerate(sorted(folder.iterdir())):
        image = Image.open(path).convert("RGB")
        if every or index == 0:
            path.unlink()
            change(image).save(path.with_suffix(suffix))
        names.append(path.with_suffix(suffix).name)
    return names


@pytest.mark.parametrize(
    ("mode", "suffix", "color", "channels"),
    [
        ("L", ".jpg", "color", 3),
        ("L", ".jpg", "grayscale", 1),
        ("L", ".png", "unchanged", 1),
        ("RGBA", ".png", "color", 3),
        ("RGBA", ".png", "unchanged", 4),
        ("I;16", ".png", "unchanged", 1),
    ],
)
def test_images_of_any_number_of_channels_give_a_sample(cells, tmp_path, mode, suffix, color, channels):
    def change(image):
        return Image.fromarray(np.array(image.convert("L"), np.uint16) * 200) if mode == "I;16" else image.convert(mode)

    repaint(tmp_path / "images", change, suffix)
    content = json.loads((tmp_path / "train.json").read_text())
    for image in content["images"]:
        image["file_name"] = str(Path(image["file_name"]).with_suffix(suffix))
    (tmp_path / "train.json").write_text(json.dumps(content))
    cells.train_dataloader.dataset.pipeline[0].color_type = color
    sample = check_data(cells, ("train",))["train"]
    assert tuple(sample["inputs"].shape) == (channels, 240, 320)


def test_images_of_mixed_sizes_give_a_sample(cells, tmp_path):
    repaint(tmp_path / "images", lambda image: image.resize((500, 100)), every=False)
    assert set(check_data(cells, ("train",))) == {"train"}


@pytest.mark.parametrize("bare", [1, 2, 3])
def test_images_without_boxes_are_data(cells, tmp_path, bare):
    """As many images have no box; only where all are bare, and such images are left out, is the split empty."""
    content = json.loads((tmp_path / "train.json").read_text())
    without = {image["id"] for image in content["images"][:bare]}
    content["annotations"] = [box for box in content["annotations"] if box["image_id"] not in without]
    (tmp_path / "train.json").write_text(json.dumps(content))
    cells.train_dataloader.dataset.filter_cfg = None
    sample = check_data(cells, ("train",))["train"]
    assert len(sample["data_samples"].gt_instances) == 0
    cells.train_dataloader.dataset.filter_cfg = dict(filter_empty_gt=True)
    if bare < 3:
        assert len(check_data(cells, ("train",))["train"]["data_samples"].gt_instances) > 0
        return
    with pytest.raises(DataError, match="the split is empty"):
        check_data(cells, ("train",))


def test_boxes_without_an_area_are_dropped_as_mmdet_drops_them(cells, tmp_path):
    content = json.loads((tmp_path / "train.json").read_text())
    for box in content["annotations"]:
        box.update(bbox=[10, 10, 0, 5], area=0)
    (tmp_path / "train.json").write_text(json.dumps(content))
    cells.train_dataloader.dataset.filter_cfg = None
    assert len(check_data(cells, ("train",))["train"]["data_samples"].gt_instances) == 0
