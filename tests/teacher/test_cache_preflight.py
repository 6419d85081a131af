"""A cache that was made for something else is refused before a run has written anything."""

import json
from pathlib import Path

import pytest

from freqkd.apis.preflight import check_cache, check_model
from freqkd.datasets.fixed_views import FixedViews
from freqkd.utils.compat import read_config

ROOT = Path(__file__).resolve().parent.parent.parent
BASES = {
    "distill": "configs/freekd/freekd-cached_neck_retinanet-r18w48_retinanet-r18w16_b8-12e_blood-cells.py",
    "prompts": "configs/freekd/prompts_neck_retinanet-r18w48_b8-4e_blood-cells.py",
}
SHORT = """
_base_ = [{base!r}]
{data}
model = dict(teacher=dict(cache=dict(dir={cache!r}, views=2)){terms})
"""
DATA = {
    "distill": "train_dataloader = dict(dataset=dict(views=2, dataset=dict(indices=2)))",
    "prompts": "train_dataloader = dict(dataset=dict(_delete_=True, type='freqkd.FixedViews', views=2, "
    "dataset={{_base_.train_dataloader.dataset}}))\ntrain_dataloader['dataset'].update(views=2)",
}
UNTRAINED = ", terms=dict(loss_freekd=dict(prompts='untrained', loss=dict(channels=64, num_levels=3)))"


@pytest.fixture
def config(tmp_path):
    """Return `config(more="", kind="distill")`: a config of two images with two views each, and a cache."""

    def write(more="", kind="distill"):
        terms = UNTRAINED if kind == "distill" else ""
        path, base = tmp_path / f"{kind}.py", str(ROOT / BASES[kind])
        text = SHORT.replace("{data}", DATA[kind]).replace("{base!r}", repr(base)).replace("{terms}", terms)
        path.write_text(text.replace("{cache!r}", repr(str(tmp_path / "cache"))) + more)
        return path

    return write


@pytest.fixture
def filled(tool, config, tmp_path):
    """A folder that was filled for the config as it is."""
    assert tool("cache_teacher", config()) == 0
    return tmp_path / "cache"


def contents(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture
def refused(tool, config, tmp_path, capsys):
    """Return `refused(folder, more, *words)`: both tools refuse the config and its cache, and write nothing."""

    def check(folder, more, *words):
        before = contents(folder)
        for name in ("train", "cache_teacher"):
            assert tool(name, config(more), "--work-dir", tmp_path / "run") == 1
            text = capsys.readouterr().err
            assert text.startswith(f"error: teacher cache {folder}"), text
            for word in words:
                assert word in text, text
        assert not (tmp_path / "run").exists()
        assert contents(folder) == before

    return check


CHANGES = {
    "teacher's config": "model['teacher']['cfg_options'] = {'model.neck.start_level': 1, 'model.backbone.style': 'caffe'}",
    "teacher's precision": "model['teacher']['autocast'] = 'bfloat16'",
    "taps": "model['terms']['loss_logits'] = dict(type='freqkd.DistillTerm', student_tap='bbox_head.retina_cls', "
    "loss=dict(type='freqkd.MSELoss'))",
    "padding of the images": "model['student'] = dict(data_preprocessor=dict(pad_size_divisor=64))",
    "number of images": "train_dataloader['dataset']['dataset'].update(indices=1)",
    "seed of the views": "train_dataloader['dataset'].update(seed=3)",
    "data set": "train_dataloader['dataset']['dataset'].update(metainfo=dict(palette=[(1, 2, 3)]))",
}


@pytest.mark.parametrize("what", list(CHANGES))
def test_a_cache_made_for_something_else_is_refused_before_the_run(refused, filled, what):
    words = ("was made for something else", f"{what} (", " in the cache, ", "name another dir in teacher.cache")
    refused(filled, CHANGES[what], *words)


@pytest.mark.parametrize("part", ["teacher", "pipeline"])
def test_a_cache_of_another_teacher_or_pipeline_is_refused_before_the_run(refused, filled, part):
    manifest = json.loads((filled / "manifest.json").read_text())
    manifest["key"][part] = "0" * 16
    manifest["text"].pop(part, None)
    (filled / "manifest.json").write_text(json.dumps(manifest))
    refused(filled, "", "was made for something else", "pipeline (" if part == "pipeline" else "teacher's weights (")


@pytest.mark.parametrize("text", [None, "{", "[]", '{"key": 3}'])
def test_a_manifest_that_is_damaged_or_gone_is_refused_before_the_run(refused, config, tmp_path, text):
    folder = tmp_path / "cache"
    (folder / "maps").mkdir(parents=True)
    if text is not None:
        (folder / "manifest.json").write_text(text)
    refused(folder, "", "maps without a manifest.json" if text is None else "manifest.json is damaged")


@pytest.mark.parametrize("kind", ["distill", "prompts"])
def test_its_own_cache_is_let_through_and_views_are_built_for_a_cache_alone(tool, config, monkeypatch, kind):
    built, original = [], FixedViews.__init__
    monkeypatch.setattr(FixedViews, "__init__", lambda *args, **options: built.append(1) or original(*args, **options))
    monkeypatch.chdir(ROOT)
    check_model(read_config(str(config(kind=kind))))
    assert built == []
    monkeypatch.setattr("freqkd.apis.cache.fill_cache", _one_batch)
    assert tool("cache_teacher", config(kind=kind)) == 0
    del built[:]
    again = read_config(str(config(kind=kind)))
    check_cache(again)
    check_model(again)
    assert built == [1]


def _one_batch(model, dataset, *_):
    from mmengine.dataset import pseudo_collate

    data = model.data_preprocessor(pseudo_collate([dataset.get_view(0, 0)]), True)
    model.prepare()
    model.teacher.fill(data["inputs"], data["data_samples"])
