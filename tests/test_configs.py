"""Every shipped config: its name, its bases, its two stages, its student alone; the full-size chains in tools/train.py."""

import importlib.util
import os
import re
import socket
import sys
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.config.utils import _get_cfg_metainfo
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, init_default_scope

from freqkd.apis.export import is_distillation, student_config
from freqkd.teacher.teacher import build_network
from freqkd.utils.compat import read_config

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted(ROOT.glob("configs/[!_]*/*.py"))
BASELINES = sorted(ROOT.glob("configs/baselines/*.py"))
PROMPTS = sorted(ROOT.glob("configs/[!_]*/prompts_*.py"))
BAND_HEADS = sorted(ROOT.glob("configs/ds2d2/ds2d2-head_*.py"))  # first stages, as those of prompts
DISTILLATIONS = [path for path in CONFIGS if path not in (*BASELINES, *PROMPTS, *BAND_HEADS)]
FULL = [path for path in CONFIGS if path.stem.endswith(("_coco", "_cityscapes", "_ade20k"))]
CHAINS = [
    ROOT / f"configs/freekd/{name}.py"
    for name in (
        "prompts_neck_retinanet-r101_8xb2-2000i_coco",
        "freekd_neck_retinanet-r101_retinanet-r50_8xb2-2x_coco",
        "prompts_bottleneck_pspnet-r101_4xb2-2000i_cityscapes",
        "freekd_bottleneck_pspnet-r101_pspnet-r18_4xb2-80k_cityscapes",
    )
]
# The last word of a config's name, and where the data lie.
ELSEWHERE = os.environ.get("FREQKD_DATA", "../shared/data")
DATA = {
    "blood-cells": "data/samples/blood_cells/",
    "road-scenes": "data/samples/road_scenes/",
    "coco": "data/coco/",
    "cityscapes": "data/cityscapes/",
    "ade20k": "data/ade/ADEChallengeData2016",
    "aquarium": f"{ELSEWHERE}/aquarium/",
    "facades": f"{ELSEWHERE}/facades/",
}
STEP = """
_base_ = [{base!r}]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
train_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(
    data_root={data!r}, indices=2, pipeline={pipeline}))
val_dataloader = val_cfg = val_evaluator = test_dataloader = test_cfg = test_evaluator = None
train_cfg = dict({length}=1)
default_hooks = dict(checkpoint=dict(interval=-1, save_last=False))
model = {model}
custom_hooks = {hooks}
"""
LOAD = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True)]
PIPELINES = {
    "coco": [*LOAD, dict(type="Resize", scale=(160, 128), keep_ratio=True), dict(type="PackDetInputs")],
    "cityscapes": [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="PackSegInputs")],
}
STEPS = []
read = lru_cache(maxsize=None)(read_config)


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


def each(paths):
    """Parametrize a test by configs, under their names."""
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


def parts(value):
    """All dicts of a nest."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from parts(item)


def prompt_terms():
    """The model and the term of every distillation that names a prompt file, by that file."""
    named = {}
    for path in DISTILLATIONS:
        model = read(path).model
        for term in model.terms.values():
            if term.get("prompts"):
                named.setdefault(term.prompts, []).append((model, term))
    return named


def written(path):
    """The prompt file that a prompt stage writes into its default work dir."""
    return f"work_dirs/{path.stem}/prompts.pth"


def test_the_configs_are_found():
    assert len(BASELINES) >= 28
    assert len(PROMPTS) >= 20
    assert len(DISTILLATIONS) >= 162
    assert len(FULL) >= 124
    assert len({path.stem for path in CONFIGS}) == len(CONFIGS)


@each(CONFIGS)
def test_name_and_folder_say_what_a_config_is(path):
    config, folder, method = read(path), path.parent.name, path.stem.split("_")[0]
    kinds = {**dict.fromkeys(BASELINES, ""), **dict.fromkeys(PROMPTS, "freqkd.PromptTuner")}
    kinds |= dict.fromkeys(BAND_HEADS, "freqkd.BandHeadTuner")
    assert (config.model.type if "freqkd" in config.model.type else "") == kinds.get(path, "freqkd.Distiller")
    assert f"{method}-".startswith(f"{folder}-") or folder == "baselines" or (folder, method) == ("freekd", "prompts")
    dataset = config.train_dataloader.dataset
    assert dataset.get("dataset", dataset).data_root == DATA[path.stem.split("_")[-1]]


def is_published(config, checkpoint):
    """Whether the metafile of the package names a checkpoint for its config, from whatever host."""
    package, name = config.split("::")
    folder = Path(importlib.util.find_spec(package).origin).parent / ".mim/configs" / Path(name).parent
    (path,) = folder.glob("metafile.y*ml")
    models = yaml.safe_load(path.read_text())
    models = models if isinstance(models, list) else models["Models"]
    weights = {Path(model["Config"]).name: model.get("Weights") for model in models if "Config" in model}
    file = weights[Path(name).name].split("/", 3)[3]
    return checkpoint.endswith(file) and re.search(r"-[0-9a-f]{8}\.pth$", file)


@each(sorted(ROOT.glob("configs/_base_/*/*.py")))
def test_a_base_inherits_nothing(path):
    assert "\n_base_ =" not in path.read_text()
    values = Config.fromfile(path).to_dict()
    if path.parent.name == "teachers":
        assert set(values) == {"teacher"}
        assert set(values["teacher"]) == {"config", "checkpoint"}
        if values["teacher"]["checkpoint"].startswith("https"):
            assert is_published(**values["teacher"])
    if path.parent.name == "distill":
        assert {term["type"] for term in values.values()} == {"freqkd.DistillTerm"}


@each(CONFIGS)
def test_a_config_names_types_by_their_scope(path):
    config = read(path)
    assert config.default_scope in ("mmdet", "mmseg")
    for part in parts(config.to_dict()):
        assert part.get("_scope_") != "freqkd"
        assert not str(part.get("type", "")).startswith(("FreeKD", "Distill", "Prompt", "ConvAlign"))
    if path not in BASELINES:
        assert "freqkd.registry" in config.custom_imports.imports
        assert "freqkd" not in read(config.model.teacher.config).model.type


@each([*BASELINES, *DISTILLATIONS])
def test_a_students_own_config_names_nothing_of_this_package(path):
    config = read(path)
    if "freqkd.EfficientNetLite" in str(config.model.get("backbone")):
        pytest.skip("a teacher with a backbone of this package")
    alone = student_config(config)
    assert "freqkd" not in str(alone.to_dict())
    assert not {"teacher", "terms", "term"} & set(alone)
    assert alone.model == (config.model.student if is_distillation(config) else config.model)
    loaders = ("train_dataloader", "val_dataloader", "optim_wrapper", "train_cfg", "default_hooks")
    kept = ("default_hooks",) if config.model.get("own_losses") is False else loaders
    assert [key for key in loaders if alone.get(key)] == list(kept)
    assert alone.default_hooks.checkpoint.type == "CheckpointHook"


def test_a_prompt_file_that_a_distillation_names_is_written_by_one_config():
    assert sorted(prompt_terms()) == sorted(map(written, PROMPTS))


@each(PROMPTS)
def test_both_stages_of_a_chain_belong_together(path):
    config = read(path)
    first = config.model
    assert "freqkd.PromptFileHook" in [hook.type for hook in config.custom_hooks]
    for second, term in prompt_terms()[written(path)]:
        assert first.teacher == {key: value for key, value in second.teacher.items() if key != "cache"}
        assert first.tap == (term.get("teacher_tap") or term.student_tap)
        assert (term.get("teacher_levels") or term.get("student_levels")) in (None, first.get("levels"))
        assert term.align.teacher_channels == first.prompts.channels
        assert term.align.get("num_levels", 1) == first.prompts.num_levels
        assert term.loss.get("preset", "paper") == first.prompts.preset


def test_a_band_head_that_a_distillation_names_is_written_by_one_config():
    named = {}
    for path in DISTILLATIONS:
        for term in read(path).model.terms.values():
            if (term.get("adapter") or {}).get("head", "").endswith(".pth"):
                named[term.adapter.head] = read(path).model.teacher
    made = {f"work_dirs/{path.stem}/epoch_{read(path).max_epochs}.pth": read(path).model.teacher for path in BAND_HEADS}
    assert named == made


def test_the_model_pages_are_those_that_the_script_writes():
    spec = importlib.util.spec_from_file_location("write_model_pages", ROOT / "tools/write_model_pages.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    written = module.pages(ROOT, read)
    old = [name for name, text in written.items() if not Path(name).exists() or Path(name).read_text() != text]
    assert old == [], "run python tools/write_model_pages.py"
    pages = {
        str(path.relative_to(ROOT)) for kind in ("README.md", "metafile.yml") for path in ROOT.glob(f"configs/*/{kind}")
    }
    assert pages <= set(written)
    models = [
        model
        for name, text in written.items()
        if name.endswith("metafile.yml")
        for model in yaml.safe_load(text)["Models"]
    ]
    assert sorted(model["Config"] for model in models) == sorted(str(path.relative_to(ROOT)) for path in CONFIGS)
    name = f"{CHAINS[0].parent.name}/{CHAINS[0].name}"
    assert _get_cfg_metainfo(str(ROOT / "freqkd"), name)["Config"] == f"configs/{name}"  # as MMEngine reads the index


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
    return {"coco": f"{ROOT}/tests/data/coco_tiny/", "cityscapes": f"{folder}/"}


@pytest.fixture(scope="module")
def step(tool, data, tmp_path_factory):
    """Return `step(path)`: what one step of a config of a full-size chain did; teacher and prompts are made when needed."""
    folder = tmp_path_factory.mktemp("full")

    @lru_cache
    def teacher(name):
        config = read(name)
        init_default_scope(config.default_scope)
        torch.manual_seed(0)
        path = folder / f"{Path(name).stem}.pth"
        torch.save(dict(state_dict=build_network(config.model, config.default_scope).state_dict()), path)
        return str(path)

    @lru_cache
    def take(path):
        config, dataset = read(path), path.stem.split("_")[-1]
        size = dict(size=(64, 128))
        student = dict(pretrained=None, data_preprocessor=size) if dataset == "cityscapes" else {}
        student = dict(student, backbone=dict(init_cfg=None))
        model = dict(teacher=dict(checkpoint=teacher(config.model.teacher.config)))
        if dataset == "cityscapes":
            model["teacher"]["cfg_options"] = {"model.data_preprocessor.size": size["size"]}
        if path in DISTILLATIONS:
            model.update(student=student, terms={})
            for name, term in config.model.terms.items():
                if term.get("prompts"):
                    (stage,) = (stage for stage in PROMPTS if written(stage) == term.prompts)
                    take(stage)
                    model["terms"][name] = dict(prompts=str(folder / stage.stem / "prompts.pth"))
        text = STEP.format(
            base=str(path),
            data=data[dataset],
            pipeline=PIPELINES[dataset],
            length="max_epochs" if config.train_cfg.get("max_epochs") else "max_iters",
            model=model,
            hooks=[*config.get("custom_hooks", []), dict(type="mmengine.NoteStep")],
        )
        (folder / path.name).write_text(text)
        assert tool("train", folder / path.name, "--work-dir", folder / path.stem) == 0
        return STEPS.pop()

    return take


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[] if path.stem == CHAINS[1].stem else pytest.mark.long)
        for path in CHAINS
    ],
)
def test_a_full_size_chain_takes_optimizer_steps_without_a_network(step, path):
    done = step(path)
    assert np.isfinite(done["loss"])
    assert done["loss"] > 0
    assert done["without"] == []
    assert done["moved"]
    roots = {part.split(".")[0] for part in done["moved"]}
    assert roots == {"prompts"} if path in PROMPTS else "backbone" in roots
    terms = read(path).model.get("terms", {})
    assert {key for key in done["outputs"] if "distill" in key} == {f"distill.{name}" for name in terms}
    assert ("distiller" in roots) == any(term.get("align") for term in terms.values())


CHAIN = """
_base_ = [{base!r}]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=dict(
    data_root={data!r}, indices=4, pipeline={pipeline}, **{train}))
val_dataloader = test_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(
    data_root={data!r}, indices=2, pipeline={tested}, **{val}))
val_evaluator = test_evaluator = dict({evaluator})
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=2, val_interval=2)
param_scheduler = []
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=2))
log_processor = dict(by_epoch=False)
model = {model}
"""
PARTS = {
    part: dict(ann_file=f"annotations/instances_{part}2017.json", data_prefix=dict(img=f"images/{part}2017/"))
    for part in ("train", "val")
}


@pytest.mark.long
@pytest.mark.parametrize(("stage", "path"), [CHAINS[:2], CHAINS[2:]], ids=["coco", "cityscapes"])
def test_a_full_size_chain_runs_from_prompts_to_masks_on_real_images(tool, tmp_path, stage, path):
    """The commands of the README, with random weights in the place of downloads and two steps for each training."""
    is_coco = path.stem.endswith("_coco")
    data = (ROOT / ELSEWHERE / ("coco_format_sample" if is_coco else "cityscapes_format_sample")).resolve()
    if not data.is_dir():
        pytest.skip(f"no images in {data}; set FREQKD_DATA to the folder that holds {data.name}")
    first, second = read(stage), read(path)
    init_default_scope(second.default_scope)
    torch.manual_seed(0)
    network = build_network(read(second.model.teacher.config).model, second.default_scope)
    torch.save(dict(state_dict=network.state_dict()), tmp_path / "teacher.pth")
    resize = dict(type="Resize", scale=(192, 128), keep_ratio=is_coco)
    load, pack = PIPELINES["coco" if is_coco else "cityscapes"][:2], PIPELINES["coco" if is_coco else "cityscapes"][-1]
    places = PARTS if is_coco else {"train": {}, "val": {}}
    size = {} if is_coco else dict(data_preprocessor=dict(size=(128, 192)))
    teacher = dict(checkpoint=str(tmp_path / "teacher.pth"))
    if size:
        teacher["cfg_options"] = {"model.data_preprocessor.size": (128, 192)}
    prompts = str(tmp_path / "stage1/prompts.pth")
    student = dict(size, backbone=dict(init_cfg=None), **({} if is_coco else dict(pretrained=None)))
    models = {
        stage: dict(teacher=teacher),
        path: dict(teacher=teacher, student=student, terms=dict(loss_freekd=dict(prompts=prompts))),
    }
    for name, model in models.items():
        text = CHAIN.format(
            base=str(name), data=f"{data}/", model=model,
            pipeline=[*load, resize, pack], tested=[load[0], resize, load[1], pack],  # judged at the labels' own size
            evaluator=f"ann_file={f'{data}/annotations/instances_val2017.json'!r}" if is_coco else "", **places,
        )  # fmt: skip
        (tmp_path / name.name).write_text(text)
    assert first.model.type == "freqkd.PromptTuner"
    assert tool("train", tmp_path / stage.name, "--work-dir", tmp_path / "stage1") == 0
    assert tool("train", tmp_path / path.name, "--work-dir", tmp_path / "stage2") == 0
    checkpoint = tmp_path / "stage2/iter_2.pth"
    assert tool("test", tmp_path / path.name, checkpoint, "--work-dir", tmp_path / "test") == 0
    assert tool("export_student", tmp_path / path.name, checkpoint, "--out-dir", tmp_path / "student") == 0
    exported = torch.load(tmp_path / "student/student.pth", weights_only=True)["state_dict"]
    assert set(exported) == set(build_network(second.model.student, second.default_scope).state_dict())
    masks = ("--prompts", prompts, "--out-dir", tmp_path / "masks", "--num", "1", "--level", "0")
    assert tool("visualize_masks", tmp_path / stage.name, *masks) == 0
    assert list((tmp_path / "masks").glob("image0*.png"))
