"""Checks of data sets before a run: what the run will read, and no more."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

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
