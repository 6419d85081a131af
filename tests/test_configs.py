"""Every shipped config parses; the full-size chains build without a network and take one optimizer step."""

import socket
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from freqkd.checkpoints import read_checkpoint
from freqkd.compat import read_config
from freqkd.distillers.teacher import build_network

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted(path.relative_to(ROOT / "configs") for path in (ROOT / "configs").glob("[!_]*/*.py"))
PROMPTS_COCO = "retinanet/prompts_neck_retinanet-r101_8xb2-2000i_coco.py"
FREEKD_COCO = "retinanet/freekd_neck_retinanet-r101_retinanet-r50_8xb2-2x_coco.py"
PROMPTS_CITY = "pspnet/prompts_bottleneck_pspnet-r101_4xb2-2000i_cityscapes.py"
FREEKD_CITY = "pspnet/freekd_bottleneck_pspnet-r101_pspnet-r18_4xb2-80k_cityscapes.py"
ONE_STEP = """
_base_ = [{base!r}]
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=1, val_interval=100)
param_scheduler = []
default_hooks = dict(
    checkpoint=dict(_delete_=True, type='CheckpointHook', by_epoch=False, interval=1), logger=dict(interval=1))
log_processor = dict(by_epoch=False)
val_dataloader = None
val_evaluator = None
val_cfg = None
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False,
    dataset=dict(data_root={data!r}, pipeline={pipeline}))
model = dict({model})
"""
DETECTION_PIPELINE = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=(160, 128), keep_ratio=True),
    dict(type="PackDetInputs"),
]
SEGMENTATION_PIPELINE = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="Resize", scale=(128, 64)),
    dict(type="PackSegInputs"),
]


def test_there_are_configs_and_among_them_the_full_size_chains():
    names = [str(path) for path in CONFIGS]
    assert len(names) >= 13
    for name in (PROMPTS_COCO, FREEKD_COCO, PROMPTS_CITY, FREEKD_CITY, "retinanet/retinanet_r50_8xb2-2x_coco.py"):
        assert name in names
    for folder in ("blood_cells", "road_scenes"):
        assert sum(name.startswith(folder) for name in names) >= 4


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_every_config_parses_and_names_what_it_is(path):
    config = read_config(ROOT / "configs" / path)
    kind = config.model.type
    if path.name.startswith("prompts_"):
        assert kind == "freqkd.PromptTuner"
        assert {"type": "freqkd.PromptFileHook"} in [dict(hook) for hook in config.custom_hooks]
    elif "teacher" in config.model:
        assert kind == "freqkd.Distiller"
        assert all(name.startswith("loss_") for name in config.model.terms)
        assert not config.model.student.type.startswith("freqkd")
    assert config.default_scope in ("mmdet", "mmseg")
    assert config.train_cfg


@pytest.fixture
def offline(monkeypatch):
    """Refuse every connection."""

    def refuse(*_):
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def cityscapes(tmp_path):
    """Four pictures in Cityscapes' layout, made of noise and stripes."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        images, labels = (tmp_path / "city" / kind / split / "ulm" for kind in ("leftImg8bit", "gtFine"))
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for index in range(2):
            name = f"ulm_{index:06d}_000019"
            cv2.imwrite(str(images / f"{name}_leftImg8bit.png"), rng.integers(0, 255, (64, 128, 3), np.uint8))
            stripes = np.repeat(np.arange(16, dtype=np.uint8), 8)[None].repeat(64, 0)
            cv2.imwrite(str(labels / f"{name}_gtFine_labelTrainIds.png"), stripes)
    return tmp_path / "city"


@pytest.fixture
def one_step(tmp_path, tool, offline):
    """Run one step of a full-size config with a random teacher; return what its checkpoint holds."""
    teachers = {}

    def random_teacher(config):
        if config not in teachers:
            described = read_config(config)
            torch.manual_seed(0)
            path = tmp_path / f"teacher{len(teachers)}.pth"
            torch.save(dict(state_dict=build_network(described.model, described.default_scope).state_dict()), path)
            teachers[config] = str(path)
        return teachers[config]

    def run(name, data, pipeline, model):
        base = ROOT / "configs" / name
        teacher = random_teacher(read_config(base).model.teacher.config)
        folder = tmp_path / Path(name).stem
        config = tmp_path / f"{folder.name}.py"
        options = {"model.data_preprocessor.size": (64, 128)} if "pspnet" in name else {}
        words = f"teacher=dict(checkpoint={teacher!r}, cfg_options={options}), {model}"
        config.write_text(ONE_STEP.format(base=str(base), data=str(data) + "/", pipeline=pipeline, model=words))
        assert tool("train", config, "--work-dir", folder) == 0
        return read_checkpoint(folder / "iter_1.pth"), folder

    return run


def check_chain(stage1, stage2, freekd_channels):
    prompts, prompt_dir = stage1
    distilled, _ = stage2
    tokens = prompts["state_dict"]["prompts.0.tokens"]
    assert tokens.shape[-1] == freekd_channels
    assert (prompt_dir / "prompts.pth").exists()
    used = distilled["state_dict"]["distiller.loss_freekd.loss.prompts.0.tokens"]
    written = read_checkpoint(prompt_dir / "prompts.pth")["state_dict"]["prompts.0.tokens"]
    torch.testing.assert_close(used, written)
    assert distilled["optimizer"]["state"], "the optimizer took no step"
    scalars = distilled["message_hub"]["log_scalars"]
    for term in [key for key in scalars if key.startswith("train/distill.")]:
        value = scalars[term].current()
        assert np.isfinite(value)
        assert value > 0


def test_the_coco_chain_builds_offline_and_takes_a_step(one_step):
    data = ROOT / "tests/data/coco_tiny"
    stage1 = one_step(PROMPTS_COCO, data, DETECTION_PIPELINE, "")
    term = f"loss_freekd=dict(prompts={str(stage1[1] / 'prompts.pth')!r})"
    model = f"student=dict(backbone=dict(init_cfg=None)), terms=dict({term})"
    stage2 = one_step(FREEKD_COCO, data, DETECTION_PIPELINE, model)
    check_chain(stage1, stage2, 256)
    assert "train/distill.loss_mse" in stage2[0]["message_hub"]["log_scalars"]


def test_the_cityscapes_chain_builds_offline_and_takes_a_step(one_step, cityscapes):
    stage1 = one_step(PROMPTS_CITY, cityscapes, SEGMENTATION_PIPELINE, "")
    size = "data_preprocessor=dict(size=(64, 128)), pretrained=None"
    model = f"student=dict({size}), terms=dict(loss_freekd=dict(prompts={str(stage1[1] / 'prompts.pth')!r}))"
    stage2 = one_step(FREEKD_CITY, cityscapes, SEGMENTATION_PIPELINE, model)
    check_chain(stage1, stage2, 512)
