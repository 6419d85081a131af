"""Wrong configs, data and arguments, one per row: every tool ends in one line and exit code 1, and creates nothing.

A row is a kind of mistake at an entry point. Rows marked `quick` run with `make test`, the others with `make test-long`.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "data/teachers/blood-cells_retinanet-r18w48.pth"
CACHED = ROOT / "configs/freekd/freekd-cached_neck_retinanet-r18w48_retinanet-r18w16_b8-12e_blood-cells.py"
STUDENT = ROOT / "configs/baselines/retinanet_r18w16_b8-12e_blood-cells.py"
SECONDS = 60  # a row takes about one; the limit is for what hangs


@dataclass(frozen=True)
class Row:
    """A mistake: additions to a valid config or damage to its files, and words of the message."""

    entry: str
    cause: str
    words: tuple[str, ...]
    more: str = ""
    damage: Callable[[Path], object] | None = None
    arguments: tuple[str, ...] = ()
    quick: bool = False
    code: int = 1

    @property
    def name(self) -> str:
        return f"{self.entry}: {self.cause}"


def row(entry: str, cause: str, *words: str, **options) -> Row:
    return Row(entry, cause, words, **options)


def term(text: str) -> str:
    """Return the text of a config that changes arguments of the FreeKD term."""
    return f"model = dict(terms=dict(loss_freekd=dict({text})))"


def loader(text: str, split: str = "train") -> str:
    return f"{split}_dataloader = dict({text})"


# ---- damage to files ------------------------------------------------------------------------------------------------


def annotations(edit: Callable[[dict], object]) -> Callable[[Path], None]:
    """Return a function that edits the training annotations in a folder of data."""

    def damage(folder: Path) -> None:
        path = folder / "annotations/instances_train.json"
        content = json.loads(path.read_text())
        edited = edit(content)
        path.write_text(json.dumps(content if edited is None else edited))

    return damage


def replace(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Return a function that replaces a file."""

    def damage(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return damage


def content(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def drop(*keys: str) -> Callable[[dict], None]:
    def edit(whole: dict) -> None:
        at = whole
        for key in keys[:-1]:
            at = at[key][0]
        del at[keys[-1]]

    return edit


def put(group: str, key: str, value: object) -> Callable[[dict], None]:
    return lambda whole: whole[group][0].update({key: value})


def repeat(group: str) -> Callable[[dict], None]:
    return lambda whole: whole[group].append(whole[group][0])


def paint(labels: np.ndarray) -> Callable[[Path], object]:
    return lambda path: Image.fromarray(labels).save(path)


def config_file(text: str | bytes, name: str = "config.py") -> Callable[[Path], Path]:
    """Return a function that writes a config of its own beside the data."""

    def damage(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return damage


def with_base(base: str, text: str) -> Callable[[Path], Path]:
    def damage(folder: Path) -> Path:
        (folder / "base.py").write_text(base)
        return config_file(f"_base_ = ['./base.py']\n{text}")(folder)

    return damage


def special(make: Callable[[Path], object]) -> Callable[[Path], Path]:
    def damage(folder: Path) -> Path:
        make(folder / "config.py")
        return folder / "config.py"

    return damage


TRAIN_JSON, IMAGE = "annotations/instances_train.json", "images/train/first.jpg"
MAP, ROAD = "ann_dir/train/first.png", "img_dir/train/first.jpg"

# ---- the table --------------------------------------------------------------------------------------------------------

FILES = [
    row(
        "student", "config that is not UTF-8", "config", "utf-8", damage=config_file(b"model = '\xff\xfe'"), quick=True
    ),
    row("student", "config that raises", "ZeroDivisionError", damage=config_file("model = 1 / 0"), quick=True),
    row("student", "config that ends the program", "exit", damage=config_file("raise SystemExit(0)")),
    row("student", "base with a syntax error", "base.py", "line 1", damage=with_base("model = dict(", "")),
    row("student", "unknown variable of a base", "nothing", damage=with_base("a = 1", "model = {{_base_.nothing}}")),
    row(
        "student",
        "import of a missing module",
        "no_such_module",
        "custom_imports",
        damage=config_file("custom_imports = dict(imports=['no_such_module'], allow_failed_imports=False)"),
    ),
    row("student", "base that is itself", "RecursionError", damage=config_file("_base_ = ['./config.py']")),
    row("student", "config of another suffix", "py/yml/yaml/json", damage=config_file("model = 1", "config.txt")),
    row("student", "folder as config", "config not found", damage=special(Path.mkdir)),
    row("student", "pipe as config", "config not found", damage=special(os.mkfifo)),
    row("student", "config without a model", "must have a model", damage=config_file("default_scope = 'mmdet'")),
    row("test", "config that is not there", "config not found", damage=lambda folder: folder / "nowhere.py"),
    row(
        "export", "config that raises in a base", "RuntimeError", "no", damage=with_base("raise RuntimeError('no')", "")
    ),
    row("masks", "config with an unknown name", "NameError", "what", damage=config_file("model = what")),
    row("cache", "base that is not there", "gone.py", damage=config_file("_base_ = ['./gone.py']")),
]

SLOTS = [
    row("student", "model None", "model must be a dict with a type", "None", more="model = None", quick=True),
    row(
        "student",
        "model without a type",
        "model must be a dict with a type",
        more="model = dict(_delete_=True, neck=1)",
    ),
    row("export", "model a list", "model must be a dict with a type", "[1]", more="model = [1]"),
    row("student", "unknown model", "RetinaNett", more="model = dict(type='RetinaNett')"),
    row("student", "misspelt option of a head", "num_clases", more="model = dict(bbox_head=dict(num_clases=3))"),
    row("student", "number of classes a text", "model", more="model = dict(bbox_head=dict(num_classes='3'))"),
    row("student", "backbone of an unknown depth", "19", more="model = dict(backbone=dict(depth=19))"),
    row(
        "student",
        "neck of other channels",
        "channels",
        more="model = dict(neck=dict(in_channels=[1, 2, 3, 4]))",
        quick=True,
    ),
    row("student", "scope that is not installed", "mmnothing", more="default_scope = 'mmnothing'"),
    row("student", "scope a number", "default_scope must be a text", more="default_scope = 3"),
    row("student", "no training data", "train_dataloader", "lacks", more="train_dataloader = None", quick=True),
    row("student", "loader a list", "train_dataloader must be a dict", more="train_dataloader = [1]"),
    row(
        "student",
        "loader without a data set",
        "train_dataloader.dataset must be a dict",
        more=loader("_delete_=True, batch_size=2"),
    ),
    row("student", "unknown data set", "CocoDatasett", more=loader("dataset=dict(type='CocoDatasett')")),
    row("student", "misspelt option of a data set", "an_file", more=loader("dataset=dict(an_file='x')")),
    row("student", "unknown transform", "Flipp", more=loader("dataset=dict(pipeline=[dict(type='Flipp')])")),
    row(
        "student",
        "misspelt option of a transform",
        "scales",
        more=loader("dataset=dict(pipeline=[dict(type='Resize', scales=(3, 4))])"),
    ),
    row(
        "student",
        "transforms in a wrong order",
        "pipeline fails on",
        quick=True,
        more=loader("dataset=dict(pipeline=[dict(type='Resize', scale=(3, 4)), dict(type='LoadImageFromFile')])"),
    ),
    row(
        "student",
        "pipeline that packs nothing",
        "inputs",
        more=loader("dataset=dict(pipeline=[dict(type='LoadImageFromFile')])"),
    ),
    row(
        "student",
        "pipeline a text",
        "train_dataloader.dataset",
        "transform",
        more=loader("dataset=dict(pipeline='resize')"),
    ),
    row(
        "student",
        "batch of nothing",
        "batch_size must be a whole number of at least 1",
        more=loader("batch_size=0"),
        quick=True,
    ),
    row("student", "batch size a text", "batch_size must be a whole number", "'8'", more=loader("batch_size='8'")),
    row("student", "fewer than no workers", "num_workers must be", "-1", more=loader("num_workers=-1"), quick=True),
    row("test", "batch size a boolean", "test_dataloader.batch_size", "True", more=loader("batch_size=True", "test")),
    row("student", "loader without a sampler", "train_dataloader.sampler", more=loader("sampler=None")),
    row(
        "student",
        "unknown sampler",
        "DefaultSamplerr",
        "'DefaultSampler'",
        more=loader("sampler=dict(type='DefaultSamplerr')"),
    ),
    row("student", "misspelt option of a sampler", "shufle", "'shuffle'", more=loader("sampler=dict(shufle=True)")),
    row("student", "persistent workers without workers", "persistent_workers", more=loader("persistent_workers=True")),
    row("student", "unknown option of a loader", "drop_lst", more=loader("drop_lst=True")),
    row("student", "unknown collate function", "collate_fn.type", more=loader("collate_fn=dict(type='stack')")),
    row("student", "no evaluator", "val_evaluator", "lacks", more="val_evaluator = None"),
    row("student", "evaluator a text", "val_evaluator must be", more="val_evaluator = 'coco'"),
    row("student", "unknown metric", "CocoMetricc", more="val_evaluator = dict(type='CocoMetricc')"),
    row("student", "misspelt option of a metric", "metrc", more="val_evaluator = dict(metrc='bbox')"),
    row("student", "unknown value of a metric", "box", more="val_evaluator = dict(metric='box')"),
    row(
        "student",
        "metric's file that is not there",
        "val_evaluator.ann_file",
        "gone.json",
        more="val_evaluator = dict(ann_file='gone.json')",
        quick=True,
    ),
    row("student", "no loop", "train_cfg", "lacks", more="train_cfg = None"),
    row("student", "loop of no kind", "by_epoch", more="train_cfg = dict(_delete_=True, max_epochs=1)"),
    row("student", "unknown loop", "EpochLoop", more="train_cfg = dict(type='EpochLoop')"),
    row("student", "misspelt option of a loop", "max_epoch", more="train_cfg = dict(max_epoch=3)"),
    row("student", "length a text", "max_epochs", "ten", more="train_cfg = dict(max_epochs='ten')"),
    row("student", "validation every zero epochs", "val_interval", more="train_cfg = dict(val_interval=0)"),
    row("student", "no optimizer wrapper", "optim_wrapper", "lacks", more="optim_wrapper = None"),
    row(
        "student",
        "optimizer wrapper without an optimizer",
        "optim_wrapper",
        more="optim_wrapper = dict(_delete_=True, type='OptimWrapper')",
    ),
    row(
        "student", "unknown optimizer", "AdamWW", more="optim_wrapper = dict(optimizer=dict(type='AdamWW'))", quick=True
    ),
    row(
        "student",
        "misspelt option of an optimizer",
        "weight_decai",
        more="optim_wrapper = dict(optimizer=dict(weight_decai=1.0))",
    ),
    row("student", "learning rate a text", "optim_wrapper", more="optim_wrapper = dict(optimizer=dict(lr='fast'))"),
    row(
        "student",
        "learning rate below zero",
        "optim_wrapper",
        "-1",
        more="optim_wrapper = dict(optimizer=dict(lr=-1.0))",
    ),
    row(
        "student",
        "accumulation over zero batches",
        "accumulative_counts",
        more="optim_wrapper = dict(accumulative_counts=0)",
    ),
    row("student", "unknown schedule", "CosineLR", more="param_scheduler = [dict(type='CosineLR')]"),
    row(
        "student",
        "schedule that ends before it begins",
        "param_scheduler[0]",
        more="param_scheduler = [dict(type='LinearLR', start_factor=0.1, begin=9, end=3)]",
    ),
    row(
        "student",
        "misspelt option of a schedule",
        "param_scheduler[0]",
        "gama",
        more="param_scheduler = [dict(type='StepLR', step_size=3, gama=0.1)]",
    ),
    row("student", "schedule a text", "param_scheduler must be", more="param_scheduler = 'cosine'"),
    row(
        "student",
        "hook without a type",
        "custom_hooks[0] must be a dict with a type",
        quick=True,
        more="custom_hooks = [dict(priority='LOW')]",
    ),
    row("student", "unknown hook", "EMAHok", "'EMAHook'", more="custom_hooks = [dict(type='EMAHok')]"),
    row(
        "student", "misspelt option of a hook", "intervl", more="custom_hooks = [dict(type='IterTimerHook', intervl=1)]"
    ),
    row("student", "hooks a dict", "custom_hooks must be a list", more="custom_hooks = dict(type='EMAHook')"),
    row(
        "student",
        "hook of an unknown priority",
        "priority",
        "HIGHER",
        more="custom_hooks = [dict(type='EMAHook', priority='HIGHER')]",
    ),
    row(
        "student",
        "checkpoints every list of epochs",
        "default_hooks.checkpoint.interval must be a number",
        more="default_hooks = dict(checkpoint=dict(interval=[1, 2]))",
    ),
    row("student", "default hook a number", "default_hooks.logger", more="default_hooks = dict(logger=3)"),
    row("student", "unknown visualizer", "Painter", more="visualizer = dict(type='Painter')"),
    row("student", "unknown log level", "log_level", "LOUD", more="log_level = 'LOUD'"),
    row("student", "misspelt option of the log", "windw", more="log_processor = dict(windw=3)"),
    row("student", "misspelt option of the seeds", "sed", more="randomness = dict(sed=3)"),
    row("student", "environment a list", "env_cfg must be a dict", more="env_cfg = [1]"),
    row("student", "weights a number", "load_from must be a text", more="load_from = 3"),
    row("student", "weights that are not there", "gone.pth", more="load_from = 'gone.pth'"),
    row(
        "student",
        "change that makes hooks a dict",
        "custom_hooks must be a list",
        arguments=("--cfg-options", "custom_hooks.x=1"),
    ),
    row("student", "unknown argument", code=2, arguments=("--workdir", "x")),
]

TERMS = [
    row("distill", "terms a list", "terms must be a dict", more="model = dict(terms=[1])", quick=True),
    row("distill", "terms empty", "terms must hold at least one", more="model = dict(terms=dict(_delete_=True))"),
    row("distill", "teacher a text", "teacher", "'big'", more="model = dict(teacher='big')", quick=True),
    row(
        "distill",
        "teacher without weights",
        "checkpoint",
        more="model = dict(teacher=dict(_delete_=True, config='configs/baselines/retinanet_r18w48_b8-36e_blood-cells.py'))",
    ),
    row("distill", "teacher's config not there", "gone.py", more="model = dict(teacher=dict(config='gone.py'))"),
    row("distill", "teacher's config a number", "teacher", more="model = dict(teacher=dict(config=3))"),
    row("distill", "teacher's weights a number", "teacher", more="model = dict(teacher=dict(checkpoint=3))"),
    row("distill", "unknown option of the teacher", "half", more="model = dict(teacher=dict(half=True))"),
    row("distill", "changes of the teacher a list", "cfg_options", more="model = dict(teacher=dict(cfg_options=[1]))"),
    row("distill", "student None", "student", more="model = dict(student=None)"),
    row("distill", "unknown student", "RetinaNett", more="model = dict(student=dict(type='RetinaNett'))"),
    row("distill", "inherit a text", "inherit", more="model = dict(inherit='neck')"),
    row("distill", "inherited module that is not there", "nekc", more="model = dict(inherit=['nekc'])"),
    row("distill", "monitor a text", "monitor", more="model = dict(monitor='often')"),
    row("distill", "term a text", "loss_freekd", more="model = dict(terms=dict(loss_freekd='freekd'))"),
    row("distill", "align a number", "align", "3", more=term("align=3"), quick=True),
    row("distill", "unknown align", "ConvAlin", more=term("align=dict(type='ConvAlin')")),
    row("distill", "channels of an align a text", "student_channels", more=term("align=dict(student_channels='32')")),
    row("distill", "levels a text", "student_levels", "'all'", more=term("student_levels='all'"), quick=True),
    row(
        "distill",
        "levels beyond the last",
        "student_levels",
        "7",
        more="model = dict(terms=dict(loss_mse=dict(type='freqkd.DistillTerm', student_levels=[0, 1, 7], "
        "loss=dict(type='freqkd.MSELoss'))))",
    ),
    row(
        "distill",
        "levels that were not prompted",
        "levels=[0, 1, 2]",
        "levels=[0, 1, 3]",
        more=term("student_levels=[0, 1, 3]"),
    ),
    row("distill", "no levels", "student_levels", "at least one", more=term("student_levels=[]")),
    row("distill", "loss a text", "loss", more=term("loss='freekd'")),
    row("distill", "no loss", "loss", more=term("loss=None")),
    row("distill", "weight a text", "weight", "'much'", more=term("weight='much'")),
    row("distill", "weight of unknown kind", "weight", "part", more=term("weight=dict(_delete_=True, part=0.5)")),
    row("distill", "schedule a list", "schedule", more=term("schedule=[3]")),
    row("distill", "adapter a number", "adapter", more=term("adapter=5")),
    row("distill", "prompts a number", "prompts", more=term("prompts=5")),
    row("distill", "tap a number", "student_tap", more=term("student_tap=5")),
    row("distill", "unknown progress", "progress", "'day'", more=term("progress='day'")),
    row(
        "distill",
        "tap before an in-place activation",
        "backbone.bn1",
        "in place",
        "inplace=False",
        quick=True,
        more=term(
            "student_tap='backbone.bn1', teacher_tap='backbone.bn1', student_levels=None, align=None, prompts=None, "
            "loss=dict(_delete_=True, type='freqkd.MSELoss')"
        ),
    ),
    row(
        "distill",
        "tap that never runs",
        "did not run",
        more=term(
            "student_tap='bbox_head.loss_cls', teacher_tap='bbox_head.loss_cls', "
            "student_levels=None, align=None, prompts=None, "
            "loss=dict(_delete_=True, type='freqkd.MSELoss')"
        ),
    ),
    row("distill", "unknown wavelet", "wavelet", more=term("loss=dict(wavelet='sym99')")),
    row(
        "student", "filter_cfg a text", "filter_cfg", "must be a dict", more=loader("dataset=dict(filter_cfg='small')")
    ),
    row("distill", "deepest level that no map has", "depth", more=term("loss=dict(depth=20)")),
    row("distill", "unknown preset", "preset", more=term("loss=dict(preset='best')")),
    row("distill", "one prompt for no level", "num_levels", more=term("loss=dict(num_levels=0)")),
    row(
        "distill",
        "adapter of another head",
        "SegLogits",
        more=term(
            "adapter=dict(type='freqkd.SegLogits'), prompts=None, align=None, "
            "loss=dict(_delete_=True, type='freqkd.LogitLoss')"
        ),
    ),
    row("prompts", "tap a number", "tap", more="model = dict(tap=3)"),
    row("prompts", "levels a text", "levels", more="model = dict(levels='all')"),
    row("prompts", "prompts None", "prompts", more="model = dict(prompts=None)", quick=True),
    row("prompts", "overlap weight a text", "overlap_weight", more="model = dict(overlap_weight='much')"),
    row("prompts", "no prompt", "num_prompts", more="model = dict(prompts=dict(num_prompts=0))"),
    row(
        "prompts",
        "changes of the teacher that do not exist",
        "teacher",
        more="model = dict(teacher=dict(cfg_options={'model.backbone.x': 1}))",
    ),
    row("prompts", "teacher None", "teacher", more="model = dict(teacher=None)"),
    row(
        "prompts",
        "more classes in the data than the teacher has",
        "classes",
        "bbox_head.num_classes",
        more=loader("dataset=dict(metainfo=dict(_delete_=True, classes=('RBC', 'a', 'b', 'c')))"),
    ),
]

DATA = [
    row("student", "pipe as annotations", "pipe", damage=replace(TRAIN_JSON, os.mkfifo), quick=True),
    row("student", "folder as annotations", "folder", damage=replace(TRAIN_JSON, Path.mkdir)),
    row(
        "student",
        "device as annotations",
        "device",
        damage=replace(TRAIN_JSON, lambda path: path.symlink_to("/dev/zero")),
    ),
    row("student", "empty annotations", "empty", damage=replace(TRAIN_JSON, Path.touch)),
    row("student", "annotations that are not json", "json", damage=replace(TRAIN_JSON, content(b"{'images': []}"))),
    row("student", "annotations that are not UTF-8", "json", damage=replace(TRAIN_JSON, content(b'{"a": "\xff"}'))),
    row("student", "annotations nested without end", "json", damage=replace(TRAIN_JSON, content(b"[" * 100_000))),
    row("student", "annotations a list", "must hold a dict", damage=annotations(lambda whole: [whole]), quick=True),
    row("student", "annotations without images", "'images'", damage=annotations(drop("images"))),
    row("student", "annotations without boxes", "'annotations'", damage=annotations(drop("annotations"))),
    row("student", "annotations without categories", "'categories'", damage=annotations(drop("categories"))),
    row(
        "student", "images a dict", "'images'", "list of dicts", damage=annotations(lambda w: w.update(images={"a": 1}))
    ),
    row("student", "image without a file", "'file_name'", damage=annotations(drop("images", "file_name"))),
    row("student", "file name a number", "'file_name'", "7", damage=annotations(put("images", "file_name", 7))),
    row("student", "identity a list", "'id'", damage=annotations(put("images", "id", [1]))),
    row("student", "identity of an image twice", "'id' once in 'images'", damage=annotations(repeat("images"))),
    row("student", "identity of a box twice", "'id' once in 'annotations'", damage=annotations(repeat("annotations"))),
    row(
        "student", "identity of a category twice", "'id' once in 'categories'", damage=annotations(repeat("categories"))
    ),
    row(
        "student",
        "box of three numbers",
        "'bbox'",
        "[1, 2, 3]",
        damage=annotations(put("annotations", "bbox", [1, 2, 3])),
    ),
    row("student", "box of words", "'bbox'", damage=annotations(put("annotations", "bbox", ["a", "b", "c", "d"]))),
    row(
        "student",
        "box not a number",
        "'bbox'",
        "nan",
        quick=True,
        damage=annotations(put("annotations", "bbox", [1.0, 2.0, float("nan"), 4.0])),
    ),
    row("student", "box without an area", "'area'", damage=annotations(drop("annotations", "area"))),
    row(
        "student",
        "box of an unknown category",
        "category 99",
        damage=annotations(put("annotations", "category_id", 99)),
    ),
    row("student", "box of an unknown image", "image 12345", damage=annotations(put("annotations", "image_id", 12345))),
    row("student", "image of no width", "'width'", damage=annotations(put("images", "width", 0))),
    row(
        "student",
        "annotations that run code",
        "can run code",
        "--trust-checkpoint",
        quick=True,
        damage=lambda folder: (folder / TRAIN_JSON).rename(folder / "annotations/a.pkl") and None,
        more=loader("dataset=dict(ann_file='annotations/a.pkl')"),
    ),
    row(
        "student",
        "annotations in yaml",
        "can run code",
        damage=lambda folder: (folder / TRAIN_JSON).rename(folder / "annotations/a.yaml") and None,
        more=loader("dataset=dict(ann_file='annotations/a.yaml')"),
    ),
    row(
        "student",
        "image that is not there",
        "first.jpg",
        "not found",
        damage=lambda folder: (folder / IMAGE).unlink(),
        quick=True,
    ),
    row("student", "empty image", "first.jpg", "empty", damage=replace(IMAGE, Path.touch)),
    row(
        "student", "text as image", "first.jpg", "not an image", damage=replace(IMAGE, content(b"not an image at all"))
    ),
    row("student", "folder as image", "first.jpg", "folder", damage=replace(IMAGE, Path.mkdir)),
    row("student", "pipe as image", "first.jpg", "pipe", damage=replace(IMAGE, os.mkfifo)),
    row(
        "student",
        "image that does not decode",
        "first.jpg",
        "pipeline",
        damage=replace(IMAGE, content(b"\xff\xd8\xff\xe0" + bytes(2000))),
    ),
    row(
        "student",
        "more classes than the head",
        "4 classes",
        "bbox_head.num_classes is 3",
        quick=True,
        more=loader("dataset=dict(metainfo=dict(_delete_=True, classes=('RBC', 'WBC', 'Platelets', 'x')))"),
    ),
    row("student", "prefix a text", "data_prefix must be a dict", more=loader("dataset=dict(data_prefix='images')")),
    row("student", "root a number", "data_root must be a path", more=loader("dataset=dict(data_root=7)")),
    row(
        "student",
        "annotation files a list",
        "ann_file must be a path",
        more=loader("dataset=dict(ann_file=['a', 'b'])"),
    ),
    row(
        "distill",
        "validation annotations a list",
        "val_dataloader",
        "must hold a dict",
        damage=lambda folder: (folder / "annotations/instances_val.json").write_text("[]") and None,
    ),
    row(
        "test",
        "test image that is not there",
        "test_dataloader",
        "not found",
        damage=lambda folder: (folder / "images/val/first.jpg").unlink(),
    ),
    row(
        "masks",
        "validation image that is text",
        "val_dataloader",
        "not an image",
        damage=replace("images/val/first.jpg", content(b"text")),
    ),
    row("cache", "training image that is empty", "train_dataloader", "empty", damage=replace(IMAGE, Path.touch)),
    row("segmenter", "map that is not there", "first.png", "not found", damage=lambda folder: (folder / MAP).unlink()),
    row(
        "segmenter",
        "label above the classes",
        "labels [9]",
        "num_classes is 5",
        quick=True,
        damage=replace(MAP, paint(np.full((240, 320), 9, np.uint8))),
    ),
    row("segmenter", "map of colours", "one channel", damage=replace(MAP, paint(np.zeros((240, 320, 3), np.uint8)))),
    row("segmenter", "text as map", "first.png", "not an image", damage=replace(MAP, content(b"text"))),
    row("segmenter", "map of another size", "first", damage=replace(MAP, paint(np.zeros((24, 32), np.uint8)))),
    row(
        "segmenter",
        "image that does not decode",
        "first.jpg",
        damage=replace(ROAD, content(b"\xff\xd8\xff" + bytes(999))),
    ),
    row(
        "segmenter",
        "split that names an image that is not there",
        "split.txt",
        "gone.jpg",
        quick=True,
        damage=lambda folder: (folder / "split.txt").write_text("gone\nfirst\n") and None,
        more=loader("dataset=dict(ann_file='split.txt')"),
    ),
    row(
        "segmenter",
        "split that is empty",
        "split.txt",
        "empty",
        damage=lambda folder: (folder / "split.txt").touch(),
        more=loader("dataset=dict(ann_file='split.txt')"),
    ),
    row(
        "segmenter",
        "maps of another suffix",
        "_mask.png",
        "not found",
        more=loader("dataset=dict(seg_map_suffix='_mask.png')"),
    ),
    row(
        "segmenter",
        "more classes than the auxiliary head",
        "decode_head.num_classes is 4",
        "5 classes",
        more="model = dict(decode_head=dict(num_classes=4))",
    ),
]

TOOLS = [
    row("test", "no test data", "test_dataloader", "lacks", more="test_dataloader = None"),
    row("test", "unknown metric", "CocoMetricc", more="test_evaluator = dict(type='CocoMetricc')", quick=True),
    row("test", "predictions of another suffix", "--out must end in", arguments=("--out", "predictions.json")),
    row("test", "no test-time augmentation", "--tta", arguments=("--tta",)),
    row("test", "unknown head", "RetinaHeadd", more="model = dict(student=dict(bbox_head=dict(type='RetinaHeadd')))"),
    row("export", "student None", "student", more="model = dict(student=None)"),
    row(
        "export",
        "unknown backbone",
        "ResNett",
        more="model = dict(student=dict(backbone=dict(type='ResNett')))",
        quick=True,
    ),
    row("export", "no folder", code=2, arguments=("--no-out-dir",)),
    row("masks", "level that is not there", "--level", "9", arguments=("--level", "9")),
    row("masks", "no image", "--num", "0", arguments=("--num", "0")),
    row("masks", "level that is not a number", code=2, arguments=("--level", "first")),
    row("masks", "no validation data", "val_dataloader", more="val_dataloader = None"),
    row("masks", "tap that is not there", "nekc", more="model = dict(tap='nekc')", quick=True),
    row("masks", "model that has no prompts", "prompts", damage=config_file(f"_base_ = [{str(STUDENT)!r}]")),
    row(
        "masks",
        "validation pipeline that fails",
        "val_dataloader",
        "pipeline",
        more=loader("dataset=dict(pipeline=[dict(type='Resize', scale=(3, 4))])", "val"),
    ),
    row(
        "cache",
        "views that differ",
        "teacher.cache.views",
        more="model = dict(teacher=dict(cache=dict(views=3)))",
        quick=True,
    ),
    row("cache", "cache a text", "cache", more="model = dict(teacher=dict(cache='here'))"),
    row("cache", "no cache", "cache", more="model = dict(teacher=dict(cache=None))"),
    row(
        "cache",
        "unknown data set inside the views",
        "CocoDatasett",
        more=loader("dataset=dict(dataset=dict(type='CocoDatasett'))"),
    ),
    row(
        "cache",
        "views a fraction",
        "views",
        more=loader("dataset=dict(views=2.5)") + "\nmodel = dict(teacher=dict(cache=dict(views=2.5)))",
    ),
    row("cache", "teacher without weights", "gone.pth", more="model = dict(teacher=dict(checkpoint='gone.pth'))"),
]

TABLE = [*FILES, *SLOTS, *TERMS, *DATA, *TOOLS]
ENTRIES = {"prompts", "distill", "student", "segmenter", "test", "export", "masks", "cache"}


# ---- running a row --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """A few images of both samples, whose first training image is called `first`."""
    base = tmp_path_factory.mktemp("small")
    source, cells = ROOT / "data/samples/blood_cells", base / "cells"
    (cells / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        whole = json.loads((source / f"annotations/instances_{split}.json").read_text())
        images = [dict(image) for image in whole["images"][:3]]
        folder = cells / "images" / split
        folder.mkdir(parents=True)
        for index, image in enumerate(images):
            name = f"{index or 'first'}.jpg"
            shutil.copy(source / "images" / split / image["file_name"], folder / name)
            image["file_name"] = name
        known = {image["id"] for image in images}
        boxes = [box for box in whole["annotations"] if box["image_id"] in known]
        part = dict(images=images, annotations=boxes, categories=whole["categories"])
        (cells / "annotations" / f"instances_{split}.json").write_text(json.dumps(part))
    source, roads = ROOT / "data/samples/road_scenes", base / "roads"
    for split in ("train", "val"):
        for kind, suffix in (("img_dir", ".jpg"), ("ann_dir", ".png")):
            folder = roads / kind / split
            folder.mkdir(parents=True)
            for index, path in enumerate(sorted((source / kind / split).glob(f"*{suffix}"))[:3]):
                shutil.copy(path, folder / f"{index or 'first'}{suffix}")
    return base


CELLS = """
train_dataloader = dict(dataset=dict({inner}data_root={root!r}{end}))
val_dataloader = dict(dataset=dict(data_root={root!r}))
test_dataloader = dict(dataset=dict(data_root={root!r}))
val_evaluator = dict(ann_file={root!r} + 'annotations/instances_val.json')
test_evaluator = dict(ann_file={root!r} + 'annotations/instances_val.json')
"""
ROADS = """
train_dataloader = dict(dataset=dict(data_root={root!r}))
val_dataloader = dict(dataset=dict(data_root={root!r}))
test_dataloader = dict(dataset=dict(data_root={root!r}))
"""


@pytest.fixture
def started(request, tool, tiny_config, small, tmp_path):
    """Return `started(row)`: the exit code of its tool, and the folders that must not exist afterwards."""

    def start(one):
        data = tmp_path / "data"
        shutil.copytree(small / ("roads" if one.entry == "segmenter" else "cells"), data)
        own = one.damage(data) if one.damage is not None else None
        run, cache = tmp_path / "run", tmp_path / "cache"
        task = "segmentation" if one.entry == "segmenter" else "detection"
        kind = {"segmenter": "student", "masks": "prompts", "test": "distill", "export": "distill", "cache": "distill"}
        wrapped = one.entry == "cache"
        text = (ROADS if task == "segmentation" else CELLS).format(
            root=f"{data}/", inner="dataset=dict(" * wrapped, end=")" * wrapped
        )
        trained = (
            request.getfixturevalue("trained") if one.entry in ("distill", "test", "export", "masks", "cache") else None
        )
        first, second = tmp_path / "first.py", tmp_path / "config.py"
        if trained is not None and one.entry != "masks":
            text += term(f"prompts={str(trained('detection').prompts)!r}") + "\n"
        tiny_config(first, task, kind.get(one.entry, one.entry), text, iterations=2)
        if wrapped:
            first.write_text(f"_base_ = [{str(CACHED)!r}]\n{text}")
            first.write_text(
                first.read_text().replace(
                    "model = dict(", f"model = dict(teacher=dict(cache=dict(dir={str(cache)!r})), "
                )
            )
        second.write_text(f"_base_ = [{str(first)!r}]\n{one.more}\n")
        path = own if isinstance(own, Path) else second
        tools = {"test": "test", "export": "export_student", "masks": "visualize_masks", "cache": "cache_teacher"}
        arguments = [*one.arguments]
        if one.entry in ("test", "export"):
            arguments = [trained("detection").checkpoint, *arguments]
        if one.entry == "masks":
            arguments += ["--prompts", trained("detection").prompts]
        place = "--out-dir" if one.entry in ("export", "masks") else "--work-dir"
        if "--no-out-dir" in arguments:
            arguments.remove("--no-out-dir")
        else:
            arguments += [place, run]
        return tool(tools.get(one.entry, "train"), path, *arguments), [run, cache]

    return start


def marked(one: Row):
    return pytest.param(one, id=one.name.replace(" ", "-"), marks=[] if one.quick else [pytest.mark.long])


@pytest.mark.parametrize("one", [marked(one) for one in TABLE])
def test_a_wrong_input_is_reported_in_one_line(started, capfd, one):
    begin = time.monotonic()
    if one.code == 2:  # argparse
        with pytest.raises(SystemExit, match="2"):
            started(one)
        assert "usage: " in capfd.readouterr().err
        return
    code, folders = started(one)
    text = capfd.readouterr().err
    lines = [line for line in text.splitlines() if "rror" in line]
    assert code == one.code, text
    assert len(lines) == 1, text
    assert lines[0].startswith("error: ")
    assert lines[0].endswith("(set FREQKD_TRACEBACK=1 to see where it came from)")
    assert text.rstrip().endswith(lines[0])
    assert "Traceback" not in text
    assert [word for word in one.words if word not in lines[0]] == [], lines[0]
    assert len(lines[0]) < 1500
    assert [folder for folder in folders if folder.exists()] == []
    assert time.monotonic() - begin < SECONDS


def test_no_two_rows_have_one_cause():
    assert len({(one.entry, one.cause) for one in TABLE}) == len(TABLE)
    made = [(one.entry, one.more, one.arguments) for one in TABLE if one.damage is None]
    assert len(set(made)) == len(made)
    assert {one.entry for one in TABLE} == ENTRIES


def test_the_table_is_as_long_as_promised():
    assert len(TABLE) >= 80
    assert 20 <= sum(one.quick for one in TABLE) <= 45


@pytest.mark.long
@pytest.mark.parametrize("entry", sorted(ENTRIES))
def test_without_a_mistake_every_entry_point_works(started, capfd, entry):
    code, folders = started(row(entry, "nothing"))
    assert code == 0, capfd.readouterr().err
    assert folders[entry == "cache"].exists()
