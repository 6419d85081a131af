"""Every shipped config takes one step on real images, and its first losses are those in first_losses.json.

`make test-configs` runs all of them, on the images in the folder `FREQKD_DATA` (data/README.md); `make test` runs a few, on
images that are shipped. Weights are drawn by a seed where a config names a download. The file is written by

    FREQKD_WRITE_LOSSES=1 python -m pytest -m "configs or not configs" tests/test_every_config.py    # -k NAME: for one config
"""

import copy
import json
import math
import os
import random
import socket
import warnings
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from first_stages import write_band_head
from mmengine.config import ConfigDict
from mmengine.logging import MessageHub
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner
from network_pairs import without_downloads

import freqkd.plugins  # noqa: F401
from freqkd.models.prompt_file import write_prompts
from freqkd.teacher import Teacher
from freqkd.utils.compat import read_config
from freqkd.utils.randomness import forked_randomness

ROOT = Path(__file__).resolve().parent.parent
LOSSES = Path(__file__).parent / "first_losses.json"
ELSEWHERE = (ROOT / os.environ.get("FREQKD_DATA", "../shared/data")).resolve()
CONFIGS = sorted(ROOT.glob("configs/[!_]*/*.py"))
FULL = [path for path in CONFIGS if path.stem.endswith(("_coco", "_cityscapes", "_ade20k"))]
QUICK = [
    ROOT / f"configs/{name}.py"
    for name in (
        "freekd/freekd_neck_fcos-r101_fcos-r50_8xb2-2x_coco",
        "pkd/pkd_neck_gfl-r101_gfl-r50_8xb2-1x_coco",
        "mse/mse_neck_rtmdet-s_rtmdet-tiny_8xb32-300e_coco",
        "binary-kd/binary-kd_logits_yolox-s_yolox-tiny_8xb8-300e_coco",
        "cwd/cwd_logits_deeplabv3-r101_deeplabv3-r18_4xb2-80k_cityscapes",
        "mse/mse_fusion_segformer-b5_segformer-b0_8xb2-160k_ade20k",
    )
]
# Folders below FREQKD_DATA that stand for a data set, and where their images lie.
FOLDERS = {"coco": "coco_format_sample", "cityscapes": "cityscapes_format_sample", "ade20k": "facades"}
PLACES = {
    "coco_format_sample": dict(
        ann_file="annotations/instances_train2017.json", data_prefix=dict(img="images/train2017/")
    ),
    "coco_tiny": dict(ann_file="annotations/instances_train2017.json", data_prefix=dict(img="train2017/")),
    "facades": dict(data_prefix=dict(img_path="images/train", seg_map_path="labels/train")),
}
TEACHERS = {}  # the last one, by its config
read = lru_cache(maxsize=None)(read_config)


def cases(paths, *marks):
    """Parameters of a test, those of a teacher one after the other; `--dist loadgroup` gives a group to one process."""
    found = []
    for path in paths:
        words = path.stem.split("_")
        teacher = "" if path.parent.name == "baselines" else f"{words[2]}_{words[-1]}"
        found.append((teacher or path.stem, not path.name.startswith("prompts_"), path))
    groups = [pytest.mark.xdist_group(group) for group, _, _ in sorted(found)]
    ordered = [path for _, _, path in sorted(found)]
    return [
        pytest.param(path, id=path.stem, marks=[*marks, group]) for path, group in zip(ordered, groups, strict=True)
    ]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*args):
        raise OSError("downloads are off in the tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(ROOT)


@pytest.fixture(autouse=True)
def random_teachers(monkeypatch):
    """Draw a teacher's weights by a seed where its checkpoint would be fetched, or is not shipped."""
    load = Teacher._load

    def load_or_draw(self):
        if os.path.isfile(self.checkpoint):
            return load(self)
        if self.config not in TEACHERS:
            TEACHERS.clear()
            with forked_randomness():
                draw()
                TEACHERS[self.config] = self.make_network()
        return TEACHERS[self.config]

    monkeypatch.setattr(Teacher, "_load", load_or_draw)


def draw():
    """Start all random numbers anew."""
    random.seed(0), np.random.seed(0), torch.manual_seed(0)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """Folders with shipped images, by data set: COCO's photos, and road scenes in the layouts of Cityscapes and ADE20K."""
    folder = tmp_path_factory.mktemp("shipped")
    scenes = ROOT / "data/samples/road_scenes"
    for image in sorted(scenes.glob("img_dir/train/*"))[:2]:
        pixels = cv2.imread(str(image))
        labels = cv2.imread(str(scenes / "ann_dir/train" / f"{image.stem}.png"), cv2.IMREAD_UNCHANGED)
        city = f"aachen/aachen_{image.stem}"
        for path, array in {
            f"cityscapes/leftImg8bit/train/{city}_leftImg8bit.png": pixels,
            f"cityscapes/gtFine/train/{city}_gtFine_labelTrainIds.png": labels,
            f"ade20k/images/training/{image.stem}.jpg": pixels,
            f"ade20k/annotations/training/{image.stem}.png": np.where(labels == 255, 0, labels + 1),
        }.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(folder / path), array)
    return {"coco": ROOT / "tests/data/coco_tiny", **{name: folder / name for name in ("cityscapes", "ade20k")}}


def image_size(path):
    """Height and width of the images: DINO needs 900 positions."""
    return (192, 256) if "dino" in path.stem else (128, 192)


def small_data(config, path, images):
    """The data of a config's training: its own data set, two images of it.

    Args:
        config: the config.
        path: its file.
        images: folder whose images are taken instead, made small; None: its own.
    """
    dataset = config.train_dataloader.dataset
    if images is not None:
        dataset = dataset.get("dataset", dataset)  # without Mosaic and the like
        labels = next(part for part in dataset.pipeline if part.type == "LoadAnnotations")
        resize = dict(type="Resize", scale=image_size(path)[::-1], keep_ratio=False)
        pack = dict(type="PackDetInputs" if config.default_scope == "mmdet" else "PackSegInputs")
        pipeline = [dict(type="LoadImageFromFile"), labels, resize, pack]
        dataset = dict(dataset, data_root=f"{images}/", pipeline=pipeline, **PLACES.get(images.name, {}))
    sampler = dict(type="DefaultSampler", shuffle=False)
    return dict(batch_size=2, num_workers=0, sampler=sampler, dataset=ConfigDict(dataset))


def trainable_model(config, prompts, folder):
    """The model of a config without downloads, with prompts that exist; what its teacher stores goes into a folder."""
    model = copy.deepcopy(config.model)
    if "cache" in model.get("teacher", {}):
        model.teacher.cache.dir = str(folder / "cache")
    for term in (model.get("terms") or {}).values():
        if term.get("prompts"):
            term.prompts = prompts(term.prompts)
        if ((term.get("adapter") or {}).get("head") or "").endswith(".pth"):
            term.adapter.head = write_band_head(term.adapter.head, folder / "head.pth")
    return ConfigDict(without_downloads(model))


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    """Return `prompts(path)`: a file with the prompts that the stage of a named prompt file starts from."""

    @lru_cache
    def make(path):
        (stage,) = ROOT.glob(f"configs/*/{Path(path).parent.name}.py")
        config = read(stage)
        made = tmp_path_factory.mktemp("prompts") / "prompts.pth"
        draw()
        with DefaultScope.overwrite_default_scope(config.default_scope):
            write_prompts(MODELS.build(config.model), str(made))
        return str(made)

    return make


def first_step(path, images, prompts, folder):
    """Take one step of training with a config.

    Returns:
        The losses, and the names of the trained parameters: of those that got no gradient, and of those that moved.
    """
    config = read(path)
    with DefaultScope.overwrite_default_scope(config.default_scope), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = trainable_model(config, prompts, folder)  # may draw prompts, the first time
        draw()
        model = revert_sync_batchnorm(MODELS.build(made)).train()
        model.init_weights()
        if images is not None and config.default_scope == "mmseg":
            model.data_preprocessor.size = image_size(path)  # else images are padded to the crops of the training
        MessageHub.get_current_instance().update_info("iter", 0)  # YOLOX's preprocessor asks for it
        optimizer = build_optim_wrapper(model, config.optim_wrapper)
        trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
        before, reached = {name: value.detach().clone() for name, value in trained.items()}, set()
        for name, value in trained.items():
            value.register_post_accumulate_grad_hook(lambda _, name=name: reached.add(name))
        draw()
        data = next(iter(Runner.build_dataloader(small_data(config, path, images), seed=0)))
        found = model.train_step(data, optimizer)
    moved = {name for name, value in trained.items() if not torch.equal(value, before[name])}
    return {key: float(value.detach()) for key, value in found.items()}, set(trained) - reached, moved


def kept(losses):
    """The losses that are written down: the sum, and those of terms."""
    return {key: value for key, value in losses.items() if key in ("loss", "loss_overlap") or "distill." in key}


def check_step(path, images, prompts, folder, where):
    """Take a step, and compare its losses with the written ones."""
    losses, without, moved = first_step(path, images, prompts, folder)
    assert all(math.isfinite(value) for value in losses.values())
    terms = read(path).model.get("terms") or {}
    assert {key for key in losses if "distill." in key} == {f"distill.{name}" for name in terms}
    assert all(losses[f"distill.{name}"] > 0 for name in terms)
    assert losses["loss"] > 0
    assert not [name for name in without if name.startswith(("distiller", "prompts", "band_head", "backbone"))]
    roots = {name.split(".")[0] for name in moved}
    first = {"PromptTuner": {"prompts"}, "BandHeadTuner": {"band_head"}}.get(read(path).model.type.split(".")[-1])
    assert roots == first if first else "backbone" in roots
    assert "distiller" in roots or not any(term.get("align") for term in terms.values())
    written = json.loads(LOSSES.read_text()) if LOSSES.exists() else {}
    if os.environ.get("FREQKD_WRITE_LOSSES"):
        written.setdefault(where, {})[path.stem] = {key: float(f"{value:.7g}") for key, value in kept(losses).items()}
        LOSSES.write_text(json.dumps(written, indent=1, sort_keys=True) + "\n")
        return
    assert kept(losses) == pytest.approx(written[where][path.stem], rel=1e-3)


def test_every_config_has_its_losses():
    written = json.loads(LOSSES.read_text())
    assert set(written["samples"]) == {path.stem for path in CONFIGS}
    assert set(written["shipped"]) == {path.stem for path in QUICK}


@pytest.mark.parametrize("path", cases(QUICK))
def test_a_config_takes_a_step_on_shipped_images(path, shipped, prompts, tmp_path, whole_networks):
    check_step(path, shipped[path.stem.split("_")[-1]], prompts, tmp_path, "shipped")


@pytest.mark.parametrize("path", cases(CONFIGS, pytest.mark.configs))
def test_every_config_takes_a_step_on_real_images(path, prompts, tmp_path, whole_networks):
    name = path.stem.split("_")[-1]
    images = ELSEWHERE / FOLDERS.get(name, name)
    if name not in ("blood-cells", "road-scenes") and not images.is_dir():
        pytest.skip(f"no images in {images}; set FREQKD_DATA to the folder that holds {images.name}")
    check_step(path, images if name in FOLDERS else None, prompts, tmp_path, "samples")
