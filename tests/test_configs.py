"""Every shipped config parses; the full-size chains build without a network and take an optimizer step."""

import socket
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, init_default_scope

from freqkd.compat import read_config
from freqkd.distillers.teacher import build_network
from freqkd.export import is_distillation, student_config
from freqkd.losses import FreeKDLoss

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = {path.relative_to(ROOT / "configs").as_posix(): path for path in ROOT.glob("configs/[!_]*/*.py")}
CELLS = "retinanet-r18w48_retinanet-r18w16_b8-12e_blood-cells.py"
ROADS = "semantic-fpn-r18w48_semantic-fpn-r18w16_b8-300i_road-scenes.py"
LOGITS = {
    "blood_cells": (CELLS, "binary-kd quality-focal-kd"),
    "road_scenes": (
        ROADS,
        "annealing-kd ctkd cwd dist dkd dtkd kd nkd normkd sdd standardized-dkd standardized-kd",
    ),
}
NAMES = {
    *(f"{folder}/{word}_logits_{pair}" for folder, (pair, words) in LOGITS.items() for word in words.split()),
    *(f"blood_cells/{word}_head_gfl-r18w48_gfl-r18w16_b8-12e_blood-cells.py" for word in ("ld", "bckd", "crosskd")),
    "blood_cells/gfl_r18w16_b8-12e_blood-cells.py",
    "blood_cells/gfl_r18w48_b8-36e_blood-cells.py",
    f"blood_cells/crosskd_head_{CELLS}",
    f"blood_cells/freekd-mse-binary-kd_neck-logits_{CELLS}",
    "gfl/crosskd_head_gfl-r101_gfl-r50_8xb2-1x_coco.py",
    "gfl/gfl_r50_8xb2-1x_coco.py",
    "gfl/ld_head_gfl-r101_gfl-r50_8xb2-1x_coco.py",
    f"blood_cells/freekd-details_neck_{CELLS}",
    f"blood_cells/freekd_neck_{CELLS}",
    f"blood_cells/freekd-cached_neck_{CELLS}",
    *(f"blood_cells/{word}_neck_{CELLS}" for word in ("at", "mgd", "fgd", "mse", "freekd-mse")),
    "blood_cells/prompts_neck_retinanet-r18w48_b8-4e_blood-cells.py",
    "blood_cells/retinanet_r18w16_b8-12e_blood-cells.py",
    "blood_cells/retinanet_r18w48_b8-36e_blood-cells.py",
    "pspnet/freekd_bottleneck_pspnet-r101_pspnet-r18_4xb2-80k_cityscapes.py",
    "pspnet/prompts_bottleneck_pspnet-r101_4xb2-2000i_cityscapes.py",
    "pspnet/cwd_logits_pspnet-r101_pspnet-r18_4xb2-80k_cityscapes.py",
    "pspnet/dist_logits_pspnet-r101_pspnet-r18_4xb2-80k_cityscapes.py",
    "retinanet/freekd_neck_retinanet-r101_retinanet-r50_8xb2-2x_coco.py",
    "retinanet/prompts_neck_retinanet-r101_8xb2-2000i_coco.py",
    "retinanet/retinanet_r50_8xb2-2x_coco.py",
    f"road_scenes/freekd-cwd_neck-logits_{ROADS}",
    f"road_scenes/freekd-details_neck_{ROADS}",
    f"road_scenes/freekd_neck_{ROADS}",
    f"road_scenes/freekd-cached_neck_{ROADS}",
    "road_scenes/prompts_neck_semantic-fpn-r18w48_b8-80i_road-scenes.py",
    "road_scenes/semantic-fpn_r18w16_b8-300i_road-scenes.py",
    "road_scenes/semantic-fpn_r18w48_b8-1200i_road-scenes.py",
}
CHAINS = {
    stage2: next(one for one in NAMES if one.startswith(stage2.split("/")[0] + "/prompts_"))
    for stage2 in sorted(NAMES)
    if "/freekd" in stage2 and "-details" not in stage2  # which needs no stage 1
}
FULL = {
    "gfl student": "gfl/gfl_r50_8xb2-1x_coco.py",
    "gfl ld": "gfl/ld_head_gfl-r101_gfl-r50_8xb2-1x_coco.py",
    "gfl crosskd": "gfl/crosskd_head_gfl-r101_gfl-r50_8xb2-1x_coco.py",
    "retinanet student": "retinanet/retinanet_r50_8xb2-2x_coco.py",
    "retinanet prompts": "retinanet/prompts_neck_retinanet-r101_8xb2-2000i_coco.py",
    "retinanet distill": "retinanet/freekd_neck_retinanet-r101_retinanet-r50_8xb2-2x_coco.py",
    "pspnet student": "mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py",
    "pspnet prompts": "pspnet/prompts_bottleneck_pspnet-r101_4xb2-2000i_cityscapes.py",
    "pspnet distill": "pspnet/freekd_bottleneck_pspnet-r101_pspnet-r18_4xb2-80k_cityscapes.py",
    "pspnet cwd": "pspnet/cwd_logits_pspnet-r101_pspnet-r18_4xb2-80k_cityscapes.py",
    "pspnet dist": "pspnet/dist_logits_pspnet-r101_pspnet-r18_4xb2-80k_cityscapes.py",
}
STAGE = {"retinanet": "prompts", "pspnet": "prompts", "gfl": "ld"}  # whose teacher the family has
STEP = """
_base_ = [{base!r}]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
train_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(
    data_root={data!r}, indices=2, pipeline={pipeline}))
val_dataloader = val_cfg = val_evaluator = test_dataloader = test_cfg = test_evaluator = None
train_cfg = dict({length}=1)
default_hooks = dict(checkpoint=dict(interval=-1, save_last=False))
model = {model}
"""
LOAD = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True)]
COCO = [*LOAD, dict(type="Resize", scale=(160, 128), keep_ratio=True), dict(type="PackDetInputs")]
CITYSCAPES = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="PackSegInputs")]
STEPS = []


@HOOKS.register_module(name="NoteStep", force=True)
class NoteStep(Hook):
    """Notes what one training step did to the parameters."""

    priority = "VERY_LOW"

    def before_train(self, runner):
        trained = {name: value for name, value in runner.model.named_parameters() if value.requires_grad}
        self.before, self.reached = {name: value.detach().clone() for name, value in trained.items()}, set()
        for name, value in trained.items():
            value.register_post_accumulate_grad_hook(lambda value, name=name: self.reached.add(name))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        parameters = dict(runner.model.named_parameters())
        without = sorted(set(self.before) - self.reached)
        moved = [name for name, value in self.before.items() if not torch.equal(value, parameters[name])]
        STEPS.append(dict(loss=float(outputs["loss"]), outputs=set(outputs), without=without, moved=moved))


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*args):
        raise OSError("downloads are off in the tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(ROOT)


def parts(value):
    """All dicts of a nest."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from parts(item)


def test_the_shipped_configs_are_these():
    assert set(CONFIGS) == NAMES
    assert len(CHAINS) == 9


@pytest.mark.parametrize("name", sorted(NAMES))
def test_it_parses_and_names_its_own_types_by_scope(name):
    config = read_config(CONFIGS[name])
    assert config.model.type in ("freqkd.Distiller", "freqkd.PromptTuner", "RetinaNet", "GFL", "EncoderDecoder")
    assert config.default_scope in ("mmdet", "mmseg")
    for part in parts(config.to_dict()):
        assert part.get("_scope_") != "freqkd"
        assert not str(part.get("type", "")).startswith(("FreeKD", "Distill", "Prompt", "ConvAlign"))
    if config.model.type.startswith("freqkd."):
        assert "freqkd.registry" in config.custom_imports.imports
        assert read_config(config.model.teacher.config).model.type in ("RetinaNet", "GFL", "EncoderDecoder")


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_students_own_config_names_nothing_of_this_package(name):
    config = read_config(CONFIGS[name])
    if config.model.type == "freqkd.PromptTuner":
        return  # it has no student
    alone = student_config(config)
    assert "freqkd" not in alone.pretty_text
    expected = config.model.student if is_distillation(config) else config.model
    assert alone.model == expected
    loaders = ("train_dataloader", "val_dataloader", "optim_wrapper", "train_cfg", "default_hooks")
    assert all(alone.get(key) for key in loaders)
    assert alone.default_hooks.checkpoint.type == "CheckpointHook"


@pytest.mark.parametrize("stage2", sorted(CHAINS))
def test_both_stages_of_a_chain_belong_together(stage2):
    first, second = read_config(CONFIGS[CHAINS[stage2]]).model, read_config(CONFIGS[stage2]).model
    term = second.terms.loss_freekd
    assert term.prompts == f"work_dirs/{Path(CHAINS[stage2]).stem}/prompts.pth"
    assert first.teacher == {key: value for key, value in second.teacher.items() if key != "cache"}
    assert first.tap == (term.get("teacher") or term.student)
    assert first.get("levels") == term.get("levels")
    build = [
        FreeKDLoss(**{key: value for key, value in loss.items() if key != "type"}) for loss in (first.loss, term.loss)
    ]
    build[1].load_prompts(build[0].state_dict())
    assert term.align.teacher_channels == term.loss.channels


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """COCO's six photos as they lie here, and two images in the layout of Cityscapes."""
    folder, random = tmp_path_factory.mktemp("cityscapes"), np.random.default_rng(0)
    for index in range(2):
        name = f"aachen/aachen_{index:06d}_000019"
        for kind, image in (("leftImg8bit", (64, 128, 3)), ("gtFine", (64, 128))):
            suffix = "leftImg8bit" if kind == "leftImg8bit" else "gtFine_labelTrainIds"
            path = folder / kind / "train" / f"{name}_{suffix}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), random.integers(0, 256 if len(image) == 3 else 19, image, dtype=np.uint8))
    coco = f"{ROOT}/tests/data/coco_tiny/"
    return {"retinanet": coco, "gfl": coco, "pspnet": f"{folder}/"}


@pytest.fixture(scope="module")
def chain(tool, data, tmp_path_factory):
    """Return `chain(name)`: what one step of a config of FULL did; teacher and prompts are made when first needed."""
    folder, made = tmp_path_factory.mktemp("full"), {}

    def teacher(family):
        path = folder / f"{family}.pth"
        if not path.exists():
            config = read_config(read_config(CONFIGS[FULL[f"{family} {STAGE[family]}"]]).model.teacher.config)
            init_default_scope(config.default_scope)
            torch.manual_seed(0)
            torch.save(dict(state_dict=build_network(config.model, config.default_scope).state_dict()), path)
        return str(path)

    def step(name):
        if name in made:
            return made[name]
        family, kind = name.split()
        student = dict(pretrained=None, data_preprocessor=dict(size=(64, 128))) if family == "pspnet" else {}
        student["backbone"] = dict(init_cfg=None)
        model = student
        if kind != "student":
            model = dict(teacher=dict(checkpoint=teacher(family)))
            if family == "pspnet":
                model["teacher"]["cfg_options"] = {"model.data_preprocessor.size": (64, 128)}
        if kind not in ("student", "prompts"):
            model["student"] = student
        if kind == "distill":
            step(f"{family} prompts")
            model["terms"] = dict(loss_freekd=dict(prompts=str(folder / f"{family}_prompts" / "prompts.pth")))
        base = CONFIGS.get(FULL[name], FULL[name])
        hooks = [*read_config(base).get("custom_hooks", []), dict(type="mmengine.NoteStep")]
        length = "max_epochs" if read_config(base).train_cfg.get("max_epochs") else "max_iters"
        pipeline = CITYSCAPES if family == "pspnet" else COCO
        text = STEP.format(base=str(base), data=data[family], pipeline=pipeline, length=length, model=model)
        config = folder / f"{family}_{kind}.py"
        config.write_text(f"{text}custom_hooks = {hooks}\n")
        assert tool("train", config, "--work-dir", folder / f"{family}_{kind}") == 0
        made[name] = STEPS.pop()
        return made[name]

    return step


@pytest.mark.parametrize("name", sorted(FULL))
def test_a_full_size_config_takes_an_optimizer_step_without_a_network(chain, name):
    done = chain(name)
    assert np.isfinite(done["loss"])
    assert done["loss"] > 0
    assert done["without"] == []
    assert done["moved"]
    roots = {part.split(".")[0] for part in done["moved"]}
    assert roots == {"prompts"} if name.endswith("prompts") else "backbone" in roots
    terms = {"retinanet distill": {"freekd", "mse"}, "pspnet distill": {"freekd"}, "pspnet cwd": {"logit"}}
    terms.update({"pspnet dist": {"logit", "auxiliary"}, "gfl ld": {"head"}, "gfl crosskd": {"head"}})
    assert {key for key in done["outputs"] if "distill" in key} == {
        f"distill.loss_{key}" for key in terms.get(name, ())
    }
    assert ("distiller" in roots) == name.endswith("distill")
