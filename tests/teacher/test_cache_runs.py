"""Whole runs with a cached teacher: filled beforehand, trained without running the teacher, refused where it cannot work."""

from contextlib import contextmanager
from pathlib import Path

import pytest

from freqkd.models import rehearsal, teacher_stage
from freqkd.models.term import DistillTerm
from freqkd.teacher import Teacher, teacher
from freqkd.utils.compat import read_config

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIGS = {
    "detection": "configs/freekd/freekd-cached_neck_retinanet-r18w48_retinanet-r18w16_b8-12e_blood-cells.py",
    "segmentation": "configs/freekd/freekd-cached_neck_semantic-fpn-r18w48_semantic-fpn-r18w16_b8-300i_road-scenes.py",
}
PROMPTS = "configs/freekd/prompts_neck_retinanet-r18w48_b8-4e_blood-cells.py"
SHORT = """
_base_ = [{base!r}]
train_dataloader = dict(batch_size=2, dataset=dict(dataset=dict(indices=3)))
train_cfg = dict({length}=2)
val_dataloader = val_cfg = val_evaluator = None
default_hooks = dict(checkpoint=dict(interval=-1, save_last=False))
model = dict(teacher=dict(cache=dict(dir={cache!r})){terms})
"""
UNTRAINED = ", terms=dict(loss_freekd=dict(prompts='untrained', loss=dict(channels=64, num_levels={levels})))"
LEVELS = dict(detection=3, segmentation=4)
WRAPPED = """
train_dataloader = dict(dataset=dict(
    _delete_=True, type='freqkd.FixedViews', views=4, dataset={{_base_.train_dataloader.dataset}}))
model = dict(teacher=dict(cache=dict(views=4)))
"""


@pytest.fixture
def config(tmp_path):
    """Return `config(task, kind="distill", more="")`: a config of three images, two steps or epochs, and a cache."""

    def write(task, kind="distill", more=""):
        base = str(ROOT / CONFIGS[task])
        if kind == "prompts":
            base = tmp_path / "cached.py"
            base.write_text(f"_base_ = [{str(ROOT / PROMPTS)!r}]{WRAPPED}")
        length = "max_epochs" if task == "detection" else "max_iters"
        terms = UNTRAINED.format(levels=LEVELS[task]) if kind == "distill" else ""
        path = tmp_path / f"{kind}.py"
        path.write_text(SHORT.format(base=str(base), length=length, cache=str(tmp_path / "cache"), terms=terms) + more)
        return path

    return write


@pytest.fixture
def teacher_runs(monkeypatch):
    """A list that grows with the number of images at each run of the teacher on a batch; a rehearsal's is left out."""
    found, original, rehearsals = [], Teacher.extract, []

    def extract(self, inputs, samples, paths):
        found.extend([len(inputs)] * (not rehearsals))
        return original(self, inputs, samples, paths)

    @contextmanager
    def noted():
        rehearsals.append(1)
        with teacher.rehearsal():
            yield
        rehearsals.pop()

    monkeypatch.setattr(Teacher, "extract", extract)
    for module in (rehearsal, teacher_stage):
        monkeypatch.setattr(module, "rehearsal", noted)
    return found


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        pytest.param("detection", "distill", marks=pytest.mark.long),
        ("segmentation", "distill"),
        pytest.param("detection", "prompts", marks=pytest.mark.long),
    ],
)
def test_a_cache_that_was_filled_trains_without_a_run_of_the_teacher(
    tool, config, teacher_runs, tmp_path, capsys, monkeypatch, task, kind
):
    path = config(task, kind)
    assert tool("cache_teacher", path) == 0
    size = sum(file.stat().st_size for file in (tmp_path / "cache").rglob("*.safetensors"))
    assert f"12 of 12 views are stored, 12 of them new, {size / 1e6:.1f} MB ({size} bytes)" in capsys.readouterr().out
    assert sum(teacher_runs) == 12
    del teacher_runs[:]
    assert tool("cache_teacher", path) == 0
    assert "12 of 12 views are stored, 0 of them new" in capsys.readouterr().out
    steps, forward = [], DistillTerm.forward
    monkeypatch.setattr(DistillTerm, "forward", lambda *args: steps.append(1) or forward(*args))
    assert tool("train", path, "--work-dir", tmp_path / "run") == 0
    assert teacher_runs == []
    assert len(steps) > 1 or kind == "prompts"


def test_a_cache_is_filled_on_the_way_by_workers_and_the_student_runs_alone(tool, config, teacher_runs, tmp_path):
    more = "\ntrain_dataloader.update(num_workers=2, persistent_workers=False)\n"
    assert tool("train", config("segmentation", more=more), "--work-dir", tmp_path / "run") == 0
    there = len(list((tmp_path / "cache").rglob("*.safetensors")))
    assert sum(teacher_runs) == there
    assert 1 <= there <= 4
    student = read_config(str(tmp_path / "run" / "student_config.py"))
    assert "freqkd" not in student.pretty_text
    assert student.train_dataloader.dataset.type == "BaseSegDataset"


@pytest.fixture(params=["train", "cache_teacher"])
def refused(request, tool, tmp_path, capsys):
    """Return `refused(path, words)`: a config that either tool must refuse, in these words, writing nothing."""

    def check(path, words):
        assert tool(request.param, path, "--work-dir", tmp_path / "run") == 1
        assert f"error: {words}" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()
        assert not (tmp_path / "cache").exists()

    return check


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            "train_dataloader['dataset'].update(views=3)",
            "teacher.cache.views must be the views of train_dataloader.dataset, 3",
        ),
        ("model['teacher']['cache'].update(dir='/dev/null/x')", "teacher.cache.dir /dev/null/x is not writable"),
        (
            "custom_hooks = [dict(type='mmdet.YOLOXModeSwitchHook')]",
            "custom_hooks[0] must be left out where the teacher is cached: mmdet.YOLOXModeSwitchHook changes",
        ),
        (
            "train_dataloader['dataset'] = dict(_delete_=True, type='mmdet.MultiImageMixDataset', "
            "pipeline=[dict(type='mmdet.Mosaic')], dataset={{_base_.train_dataloader.dataset}})",
            "train_dataloader.dataset must not change views of a cached teacher, got mmdet.MultiImageMixDataset",
        ),
        ("model['teacher']['cache'].update(size=3)", "teacher.cache must be dict(dir=..., views=...), got the keys"),
    ],
)
def test_what_cannot_work_is_said_before_the_run(refused, config, more, words):
    refused(config("detection", more=more), words)


def test_a_data_set_without_fixed_views_is_refused(refused, tmp_path):
    path, plain = tmp_path / "plain.py", CONFIGS["detection"].replace("freekd-cached", "freekd")
    teacher = f"dict(cache=dict(dir={str(tmp_path / 'cache')!r}, views=2))"
    path.write_text(f"_base_ = [{str(ROOT / plain)!r}]\nmodel = dict(teacher={teacher}{UNTRAINED.format(levels=3)})")
    refused(path, "teacher.cache needs fixed views: wrap the data set")


def test_a_config_without_a_cache_is_not_filled(tool, capsys):
    path = ROOT / "configs/freekd/freekd_neck_retinanet-r18w48_retinanet-r18w16_b8-12e_blood-cells.py"
    assert tool("cache_teacher", path) == 1
    assert "error: the config must have a cached teacher" in capsys.readouterr().err
