"""Images without labels: which are found, and that pipelines, views and samplers of mmdet and mmseg take them."""

import cv2
import numpy as np
import pytest
from mmengine.registry import DATASETS, DefaultScope

import freqkd.plugins  # noqa: F401
from freqkd.datasets import FixedViews, ImageFolder
from freqkd.datasets.fixed_views import VIEW

SIZES = {"b.JPG": (20, 30), "a/c.png": (40, 30), "a/d.jpg": (24, 32)}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a").mkdir()
    for index, (name, size) in enumerate(SIZES.items()):
        cv2.imwrite(str(tmp_path / name), np.full((*size, 3), 20 * index, np.uint8))
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "a" / "notes.txt").write_text("no image")
    return tmp_path


def test_images_are_listed_by_path_with_their_sizes(folder):
    images = ImageFolder(data_root=str(folder))
    infos = [images.get_data_info(index) for index in range(len(images))]
    assert [info["img_path"].removeprefix(f"{folder}/") for info in infos] == ["a/c.png", "a/d.jpg", "b.JPG"]
    assert [info["img_id"] for info in infos] == [0, 1, 2]
    assert [(info["height"], info["width"]) for info in infos] == [(40, 30), (24, 32), (20, 30)]
    assert len(ImageFolder(data_root=str(folder), data_prefix=dict(img="a"), suffixes=[".png"])) == 1
    assert len(ImageFolder(data_root=str(folder), indices=2)) == 2


@pytest.mark.parametrize(("scope", "pack"), [("mmdet", "PackDetInputs"), ("mmseg", "PackSegInputs")])
def test_pipelines_and_views_take_them(folder, scope, pack):
    pipeline = [
        dict(type="LoadImageFromFile"),
        dict(type="Resize", scale=(32, 24), keep_ratio=False),
        dict(type="RandomFlip", prob=0.5),
        dict(type=pack),
    ]
    config = dict(type="freqkd.ImageFolder", data_root=str(folder), pipeline=pipeline)
    with DefaultScope.overwrite_default_scope(scope):
        views = FixedViews(DATASETS.build(config), views=2)
        sample = views.get_view(2, 1)
    assert sample["inputs"].shape == (3, 24, 32)
    assert int(sample["inputs"].max()) == 0  # b.JPG is black
    assert sample["data_samples"].metainfo[VIEW].shape == (24, 32)
    assert sample["data_samples"].metainfo["ori_shape"] == (20, 30)


def test_a_folder_without_images_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"data_root must be a folder with images \(.jpg, .*got none in"):
        ImageFolder(data_root=str(tmp_path))
    with pytest.raises(ValueError, match=r"data_prefix must be dict\(img=...\), got"):
        ImageFolder(data_root=str(tmp_path), data_prefix=dict(image="a"))
