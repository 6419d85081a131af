"""A training that is killed and resumed ends with the weights of one that was not, to the bit."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch

from freqkd.utils.checkpoints import read_checkpoint

ROOT = Path(__file__).resolve().parent.parent.parent
CELLS = "retinanet-r18w48_retinanet-r18w16_b8-12e_blood-cells"
ROADS = "semantic-fpn-r18w48_semantic-fpn-r18w16_b8-300i_road-scenes"
EPOCHS = """
_base_ = [{base!r}]
_data = dict(indices=4, pipeline=[
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(160, 120), keep_ratio=True), dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'), dict(type='PackDetInputs')])
train_dataloader = dict(batch_size=2, dataset={data})
val_dataloader = dict(batch_size=1, dataset=dict(indices=1))
train_cfg = dict(max_epochs=3, val_interval=1)
model = dict({model})
{more}
"""
ITERATIONS = """
_base_ = [{base!r}]
_data = dict(pipeline=[
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='RandomCrop', crop_size=(96, 128)),
    dict(type='RandomFlip', prob=0.5), dict(type='PhotoMetricDistortion'), dict(type='PackSegInputs')])
train_dataloader = dict(batch_size=2, dataset={data})
val_dataloader = dict(dataset=dict(indices=1))
train_cfg = dict(max_iters=6, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=2))
model = dict({model})
{more}
"""
AVERAGED = "custom_hooks = [dict(type='EMAHook', momentum=0.2, update_buffers=True)]"
# Kinds of trainings: the pair of networks, the config, changes to the model, more lines.
KINDS = {
    "prompts, epochs": (CELLS, "prompts_neck_retinanet-r18w48_b8-4e_blood-cells", "", ""),
    "prompts, iterations": (ROADS, "prompts_neck_semantic-fpn-r18w48_b8-80i_road-scenes", "", ""),
    "FreeKD, ratio being measured": (CELLS, "freekd_neck", "terms=dict(loss_freekd=dict(prompts=PROMPTS))", ""),
    "FreeKD, dropout": (ROADS, "freekd_neck", "terms=dict(loss_freekd=dict(prompts=PROMPTS))", ""),
    "FreeKD, cached teacher": (
        CELLS, "freekd-cached_neck", "terms=dict(loss_freekd=dict(prompts=PROMPTS)), teacher=dict(cache=dict(dir=CACHE))", "",
    ),
    "FreeKD, cached teacher, iterations": (
        ROADS, "freekd-cached_neck", "terms=dict(loss_freekd=dict(prompts=PROMPTS)), teacher=dict(cache=dict(dir=CACHE))", "",
    ),
    "averaged weights and buffers": (CELLS, "mse_neck", "", AVERAGED),
    "ratio held, warmed up": (
        ROADS, "kd_logits",
        "terms=dict(loss_logit=dict(weight=dict(ratio=0.5, iters=1), schedule=dict(warmup=5, by_epoch=False)))", "",
    ),
    "learned temperature": (ROADS, "ctkd_logits", "", ""),
    "random masks in the loss": (CELLS, "mgd_neck", "", ""),
    "best checkpoint kept, gradients added up": (
        CELLS, "retinanet_r18w16_b8-12e_blood-cells", "",
        "default_hooks = dict(checkpoint=dict(save_best='coco/bbox_mAP'))\noptim_wrapper = dict(accumulative_counts=2)",
    ),
    "student alone, averaged, iterations": (ROADS, "semantic-fpn_r18w16_b8-300i_road-scenes", "", AVERAGED),
    "condensed data, epochs": (CELLS, "kcd_logits", "", "train_dataloader.update(sampler=dict(keep=0.5, stages=2))"),
    "condensed data, iterations": (
        ROADS, "kcd_logits", "", "_data.update(indices=4)\ntrain_dataloader.update(sampler=dict(keep=0.5, stages=2))",
    ),
    "two workers, epochs": (CELLS, "mse_neck", "", "train_dataloader.update(num_workers=2, persistent_workers=False)"),
}  # fmt: skip
WORKERS = {
    "persistent workers, epochs": (CELLS, "mse_neck", "", "train_dataloader.update(num_workers=2, persistent_workers=True)"),
    "two workers, iterations": (ROADS, "kd_logits", "", "train_dataloader.update(num_workers=2, persistent_workers=False)"),
}  # fmt: skip
# Places where it is killed; six steps, a checkpoint and a validation after every second.
PLACES = {"prompt file": 1, "start": 1, "step": 4, "validation": 2, "checkpoint": 2, "moved": 2}
QUICK = [
    ("FreeKD, ratio being measured", "checkpoint"),
    ("FreeKD, dropout", "step"),
    ("averaged weights and buffers", "moved"),
    ("prompts, iterations", "validation"),
]
STAGE_ONE = [("prompts, epochs", "prompt file"), ("prompts, iterations", "prompt file")]
ALL = [*STAGE_ONE, *((kind, place) for kind in KINDS for place in list(PLACES)[1:] if (kind, place) not in QUICK)]


def write(folder: Path, kind: str, prompts: dict[str, Path], cache: Path) -> Path:
    pair, name, model, more = KINDS[kind]
    (base,) = (path for path in ROOT.glob("configs/*/*.py") if path.stem in (name, f"{name}_{pair}"))
    cached = "dict(dataset=_data)" if "cached" in kind else "_data"
    model = model.replace("PROMPTS", repr(str(prompts[pair]))).replace("CACHE", repr(str(cache)))
    text = EPOCHS if pair is CELLS else ITERATIONS
    path = folder / "config.py"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text.format(base=str(base), data=cached, model=model, more=more))
    return path


def final(work_dir: Path) -> dict[str, object]:
    """The result of a finished training: weights, averages, states of optimizer and random numbers."""
    saved = read_checkpoint(work_dir / ("epoch_3.pth" if (work_dir / "epoch_3.pth").exists() else "iter_6.pth"))
    return {
        part: saved.get(part)
        for part in ("state_dict", "ema_state_dict", "optimizer", "param_schedulers", "freqkd", "condensation")
    }


def differing(one: object, other: object, place: str = "") -> list[str]:
    """Name what differs in two nested structures, tensors to the bit."""
    if isinstance(one, torch.Tensor):
        equal = isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
        return [] if equal else [place]
    if isinstance(one, dict) and isinstance(other, dict):
        keys = {*one, *other}
        return [name for key in keys for name in differing(one.get(key), other.get(key), f"{place}.{key}")]
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        return [name for i, pair in enumerate(zip(one, other)) for name in differing(*pair, f"{place}[{i}]")]
    return [] if one == other else [place]


@pytest.fixture(scope="session")
def prompts(trained):
    return {CELLS: trained("detection").prompts, ROADS: trained("segmentation").prompts}


@pytest.fixture(scope="session")
def whole(child, prompts, tmp_path_factory):
    """Return `whole(kind)`: the result of the uninterrupted training, made once."""
    made: dict[str, dict[str, object]] = {}

    def make(kind: str) -> dict[str, object]:
        if kind not in made:
            folder = tmp_path_factory.mktemp("whole")
            config = write(folder, kind, prompts, folder / "cache")
            code, output = child("train", config, "--work-dir", folder / "run")
            assert code == 0, output[-3000:]
            made[kind] = final(folder / "run")
        return made[kind]

    return make


def check(kind, place, count, whole, child, prompts, tmp_path):
    if place == "step" and "added up" in kind:
        count //= 2  # as many gradients make one step
    config = write(tmp_path, kind, prompts, tmp_path / "cache")
    arguments = ("train", config, "--work-dir", tmp_path / "run", "--resume")
    code, output = child(*arguments, kill=(place, count))
    assert code == -signal.SIGKILL, output[-3000:]
    code, output = child(*arguments)
    assert code == 0, output[-3000:]
    assert differing(whole(kind), final(tmp_path / "run")) == []
    left = {path.name for path in (tmp_path / "run").iterdir() if path.name.startswith(".")}
    assert left == set()
    kept = [path.name for path in (tmp_path / "run").glob("*_[0-9].pth") if not path.name.startswith("best")]
    assert len(kept) == 1, kept


@pytest.mark.parametrize(
    ("kind", "place"), [QUICK[0], *(pytest.param(*one, marks=pytest.mark.long) for one in QUICK[1:])]
)
def test_a_killed_training_resumes_to_the_same_weights(kind, place, whole, child, prompts, tmp_path):
    check(kind, place, PLACES[place], whole, child, prompts, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize(("kind", "place"), ALL)
def test_a_killed_training_resumes_to_the_same_weights_everywhere(kind, place, whole, child, prompts, tmp_path):
    check(kind, place, PLACES[place], whole, child, prompts, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("kind", WORKERS)
def test_workers_that_start_again_see_the_same_images_and_draw_other_views(
    kind, whole, child, prompts, tmp_path, monkeypatch
):
    """What docs/reliability.md excludes: if all is equal here, it can promise more."""
    monkeypatch.setitem(KINDS, kind, WORKERS[kind])
    config = write(tmp_path, kind, prompts, tmp_path / "cache")
    arguments = ("train", config, "--work-dir", tmp_path / "run", "--resume")
    assert child(*arguments, kill=("step", 4))[0] == -signal.SIGKILL
    assert child(*arguments)[0] == 0
    assert differing(whole(kind)["state_dict"], final(tmp_path / "run")["state_dict"])


def test_a_kill_in_the_last_validation_of_stage_one_costs_no_prompts(child, prompts, tmp_path):
    config = write(tmp_path, "prompts, iterations", prompts, tmp_path / "cache")
    code, output = child("train", config, "--work-dir", tmp_path / "run", kill=("validation", 3))
    assert code == -signal.SIGKILL, output[-3000:]
    written = read_checkpoint(tmp_path / "run" / "prompts.pth")["state_dict"]
    last = read_checkpoint(tmp_path / "run" / "iter_6.pth")["state_dict"]
    assert differing(dict(written), dict(last)) == []


def test_there_are_fifty_kills():
    assert len({*QUICK, *ALL}) >= 50
