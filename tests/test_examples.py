"""The examples run: a classifier from the teacher to the student, detectors with masks for a step of either stage."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner

import freqkd.plugins  # noqa: F401
from freqkd.models.prompt_file import write_prompts
from freqkd.teacher.teacher import build_network
from freqkd.utils.checkpoints import read_checkpoint
from freqkd.utils.compat import read_config

ROOT = Path(__file__).resolve().parent.parent
CLASSIFIER, DETECTORS = ROOT / "examples/classification/configs", ROOT / "examples/road_objects/configs"
SHORT = """
_base_ = [{base!r}]
train_dataloader = dict(batch_size=8, dataset=dict(per_class=40))
train_cfg = dict(max_epochs={epochs}, val_interval={epochs})
val_dataloader = dict(dataset=dict(per_class=20))
log_processor = dict(window_size=1)
{more}
"""
LABELS = dict(  # a term that reads the labels of the images
    type="freqkd.DistillTerm",
    student_tap="head",
    adapter=dict(type="freqkd.ImageLogits"),
    loss=dict(type="freqkd.LogitLoss", softening=dict(type="fixed", tau=2.0), divergence="dkd"),
    weight=0.1,
)
STEPS = 75  # of 8 crops each, in 5 epochs
WINDOW = 20


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch):
    """The folder and the import path of the commands in examples/README.md."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT)


@pytest.fixture
def run(tool, tmp_path):
    """Return `run(name, epochs, more)`: the work dir of a short training by a config of the classifier."""

    def go(name, epochs=1, more=""):
        config = tmp_path / f"{name}.py"
        config.write_text(SHORT.format(base=str(CLASSIFIER / f"classifier_{name}.py"), epochs=epochs, more=more))
        assert tool("train", config, "--work-dir", tmp_path / name) == 0
        return tmp_path / name

    return go


def windowed_ratios(scalars, weights):
    """Ratios of the held term's gradient to the task's over windows of steps, with the weights of these steps."""
    term, own, ratio = (
        np.array(scalars[f"train/{what}/loss_freekd"].data[0]) for what in ("grad_norm", "weight", "ratio")
    )
    window = np.ones(WINDOW)
    return np.convolve(weights * term, window, "valid") / np.convolve(own * term / ratio, window, "valid")


@pytest.mark.long
def test_a_classifier_learns_from_another_and_holds_the_ratio_of_a_term(run):
    teacher = f"teacher=dict(checkpoint={str(run('teacher', epochs=2) / 'epoch_2.pth')!r})"
    prompts = str(run("prompts", more=f"model = dict({teacher})") / "prompts.pth")
    terms = f"terms=dict(loss_freekd=dict(prompts={prompts!r}), loss_dkd={LABELS!r})"
    work_dir = run("distill", 5, f"model = dict(monitor=1, {teacher}, {terms})")
    saved = read_checkpoint(work_dir / "epoch_5.pth")
    scalars = saved["message_hub"]["log_scalars"]
    for name in ("loss_freekd", "loss_details", "loss_kd", "loss_dkd"):
        values, _ = scalars[f"train/distill.{name}"].data
        assert len(values) == STEPS
        assert all(math.isfinite(value) and value > 0 for value in values)
    (log,) = work_dir.glob("*/vis_data/scalars.json")
    (recall,) = (
        line["crops/mean_recall"] for line in map(json.loads, log.read_text().splitlines()) if "crops/" in str(line)
    )
    assert recall > 50  # 33 by chance
    student = read_config(CLASSIFIER / "classifier_student.py").model
    network = build_network(student, "mmengine")
    network.load_state_dict(
        {key: value for key, value in saved["state_dict"].items() if not key.startswith("distiller.")}
    )
    # The ratio is in its band for nine tenths of the steps after its measurement, and would not be with the measured weight.
    term = read_config(CLASSIFIER / "classifier_distill.py").model.terms.loss_freekd.weight
    weights, _ = scalars["train/weight/loss_freekd"].data
    inside = [
        np.abs(np.log(windowed_ratios(scalars, of_steps)[term.iters :] / term.ratio)) <= math.log(1.5)
        for of_steps in (weights, [*weights[: term.iters], *[weights[term.iters - 1]] * (STEPS - term.iters)])
    ]
    assert inside[0].mean() >= 0.9 > inside[1].mean()


def step(name, folder):
    """Take a step with a config of a detector, on two small images: the losses, and the parameters that moved."""
    config = read_config(DETECTORS / f"{name}.py")
    config.merge_from_dict({"train_dataloader.batch_size": 2, "train_dataloader.dataset.indices": 2})
    pipeline = config.train_dataloader.dataset.pipeline
    pipeline.insert(2, dict(type="Resize", scale=(160, 120), keep_ratio=True))
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        config.model.teacher.checkpoint = str(folder / "teacher.pth")
        if "terms" in config.model:
            config.model.terms.loss_freekd.prompts = str(folder / "prompts.pth")
        model = MODELS.build(config.model).train()
        model.init_weights()
        optimizer = build_optim_wrapper(model, config.optim_wrapper)
        data = next(iter(Runner.build_dataloader(config.train_dataloader, seed=0)))
        trained = {key: value for key, value in model.named_parameters() if value.requires_grad}
        before = {key: value.detach().clone() for key, value in trained.items()}
        losses = model.train_step(data, optimizer)
    moved = {key for key, value in trained.items() if not torch.equal(value, before[key])}
    return model, {key: float(value.detach()) for key, value in losses.items()}, moved


@pytest.mark.usefixtures("whole_networks")
@pytest.mark.parametrize("kind", ["mask-rcnn", "panoptic-fpn"])
def test_a_detector_with_masks_takes_a_step_of_either_stage(kind, tmp_path):
    config = read_config(DETECTORS / f"{kind}_teacher.py")
    torch.manual_seed(1)
    torch.save(
        dict(state_dict=build_network(config.model, config.default_scope).state_dict()), tmp_path / "teacher.pth"
    )
    tuner, losses, moved = step(f"{kind}_prompts", tmp_path)
    assert moved == {f"prompts.{level}.tokens" for level in range(4)}
    assert 0 < losses["loss_overlap"] < 1
    write_prompts(tuner, str(tmp_path / "prompts.pth"))
    model, losses, moved = step(f"{kind}_distill", tmp_path)
    assert {key for key in losses if "distill" in key} == {f"distill.{name}" for name in model.terms}
    assert all(math.isfinite(value) for value in losses.values())
    assert all(losses[f"distill.{name}"] > 0 for name in model.terms)
    heads = {"neck", "rpn_head", "roi_head", *(["semantic_head"] if kind == "panoptic-fpn" else [])}
    assert {"backbone", "distiller", *heads} == {key.split(".")[0] for key in moved}


CHAIN = """
_base_ = [{base!r}]
train_dataloader = dict(batch_size=2, dataset=dict(indices=4))
train_cfg = dict(max_epochs=1, val_interval=1)
{more}
"""


@pytest.mark.long
@pytest.mark.parametrize("kind", ["mask-rcnn", "panoptic-fpn"])
def test_a_detector_with_masks_learns_from_another(kind, tool, tmp_path):
    checkpoint, prompts = tmp_path / "teacher/epoch_1.pth", tmp_path / "prompts/prompts.pth"
    teacher = f"teacher=dict(checkpoint={str(checkpoint)!r})"
    terms = f"terms=dict(loss_freekd=dict(prompts={str(prompts)!r}))"
    val = "val_dataloader = dict(dataset=dict(indices=2))\n" * (kind == "mask-rcnn")
    for stage, more in dict(
        teacher="", prompts=f"model=dict({teacher})", distill=f"model=dict({teacher}, {terms})"
    ).items():
        config = tmp_path / f"{kind}_{stage}.py"
        config.write_text(CHAIN.format(base=str(DETECTORS / config.name), more=val + more))
        assert tool("train", config, "--work-dir", tmp_path / stage) == 0
    saved = read_checkpoint(tmp_path / "distill/epoch_1.pth")["state_dict"]
    student = read_config(DETECTORS / f"{kind}_student.py")
    network = build_network(student.model, student.default_scope)
    network.load_state_dict({key: value for key, value in saved.items() if not key.startswith("distiller.")})


@pytest.mark.usefixtures("whole_networks")
def test_objects_are_the_connected_parts_of_the_obstacles():
    config = read_config(DETECTORS / "panoptic-fpn_teacher.py")
    from mmdet.registry import DATASETS

    with DefaultScope.overwrite_default_scope("mmdet"):
        images = DATASETS.build({**config.train_dataloader.dataset, "indices": 6})
        found = [images[index]["data_samples"] for index in range(6)]
    assert len(images) == 6
    for sample in found:
        labels, objects = sample.gt_sem_seg.sem_seg[0], sample.gt_instances
        assert set(labels.unique().tolist()) <= {0, 1, 2, 3, 4, 255}
        masks = torch.from_numpy(objects.masks.masks).bool()
        assert len(masks) == len(objects) > 0
        assert masks.sum(0).max() == 1  # no pixel is in two
        assert bool((labels[masks.any(0)] == 0).all())
        assert (labels == 0).sum() - masks.sum() < 20 * 10  # the rest are parts that are too small
        for mask, box in zip(masks, objects.bboxes.tensor):
            rows, columns = torch.where(mask)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
