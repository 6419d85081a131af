"""The benchmarks compare equal things, studies train what they say, and the page says what was measured."""

import functools
import importlib
import json
import sys
from itertools import accumulate, chain
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from freqkd.losses import FreeKDLoss

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def module(monkeypatch):
    """Return `module(name)`, a file of benchmarks/."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module
    for path in (ROOT / "benchmarks").glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.mark.parametrize("num_prompts", [2, 6])
def test_the_released_form_is_the_same_loss(module, num_prompts):
    pytest.importorskip("pytorch_wavelets")
    torch.manual_seed(0)
    released = module("released").ReleasedFreeKD(4, 2, num_prompts)
    loss = FreeKDLoss(4, 2, num_prompts, "official")
    loss.load_prompts({f"prompts.{level}.tokens": tokens for level, tokens in enumerate(released.tokens)})
    students, teachers = ([torch.randn(2, 4, *size) for size in ((13, 21), (7, 11))] for _ in "st")
    for student in students:
        student.requires_grad_()
    expected, actual = released(students, teachers), loss(students, teachers)
    torch.testing.assert_close(actual, expected)
    for one, other in zip(torch.autograd.grad(actual, students), torch.autograd.grad(expected, students)):
        torch.testing.assert_close(one, other)


def test_times_are_those_of_the_measured_rounds(module, monkeypatch):
    measure = module("measure")
    # A warm round, whose end is not looked at, then three rounds of 1 to 3 s and 10 to 30 s.
    spent = [50, 60, *chain.from_iterable((0, seconds) for seconds in (1, 30, 3, 10, 2, 20))]
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=accumulate(spent).__next__))
    calls = []
    times = measure.interleave(dict(a=lambda: calls.append("a"), b=lambda: calls.append("b")), repeats=3, warm=1)
    assert calls == ["a", "b"] * 4
    assert times == dict(a=dict(median=2e3, low=1e3, high=3e3), b=dict(median=2e4, low=1e4, high=3e4))


def test_the_peak_is_seen(module):
    def call():
        torch.ones(2**20)
        torch.ones(2**18).add(1)

    call.reset = lambda: None
    assert 2**22 <= module("measure").peak_bytes(call) < 2**22 + 2**18


def test_every_variant_is_made_of_shipped_configs(module):
    config = functools.cache(module("shipped").sample_config)
    for study in module("studies").STUDIES.values():
        for task, variants in study.variants.items():
            for name, variant in variants.items():
                terms = config(task, variant.method).model.get("terms", {})
                added = config(task, variant.beside).model.terms if variant.beside else {}
                assert variant.term in {"", *terms, *added}, name
                assert variant.method or not variant.term, name


def test_every_result_is_of_a_variant(module):
    for name, study in module("studies").STUDIES.items():
        runs = module("measure").load(f"study_{name}")
        assert runs
        for run in runs:
            assert (run.get("ratio") or None) in study.variants[run["task"]][run["variant"]].ratios


@pytest.fixture
def sweep(module, monkeypatch):
    """Return sweep.py, prompts left out."""
    sweep = module("sweep")
    monkeypatch.setattr(
        sweep, "prompt_file", lambda shipped, variant, folder, seed: f"{variant.prompts} of seed {seed}"
    )
    return sweep


def test_a_student_is_judged_on_images_that_it_was_not_trained_on(sweep, tmp_path):
    cells = sweep.run_config("terms", "detection", "binary KD", 0.5, 3, tmp_path)
    parts = [
        json.loads(Path(loader.dataset.ann_file).read_text())
        for loader in (cells.train_dataloader, cells.val_dataloader)
    ]
    trained, held = ({image["file_name"] for image in part["images"]} for part in parts)
    assert (len(trained), len(held), len(trained & held)) == (160, 45, 0)
    assert [
        len({box["image_id"] for box in part["annotations"]} - {image["id"] for image in part["images"]})
        for part in parts
    ] == [0, 0]
    assert {name: term.weight.ratio for name, term in cells.model.terms.items()} == dict(
        loss_freekd=1.0, loss_logit=0.5
    )
    assert (cells.randomness.seed, cells.model.terms.loss_freekd.prompts) == (3, "{} of seed None")
    roads = sweep.run_config("weights", "segmentation", "MSE", 2.0, 0, tmp_path)
    assert (roads.model.terms.loss_freekd.loss, roads.model.terms.loss_freekd.prompts) == (
        dict(type="freqkd.MSELoss"),
        None,
    )
    assert roads.train_dataloader.dataset.views == roads.model.teacher.cache.views == 4
    files = [roads.train_dataloader.dataset.dataset.ann_file, roads.val_dataloader.dataset.ann_file]
    trained, held = (set(Path(file).read_text().split()) for file in files)
    assert trained
    assert held
    assert not trained & held


def test_a_sweep_trains_what_is_missing(sweep, module, monkeypatch, tmp_path, capsys):
    for name in ("sweep", "measure"):
        monkeypatch.setattr(module(name), "RESULTS", tmp_path)
    trained = []

    def measure(config, task, term):
        trained.append(
            (config.randomness.seed, term, config.model.get("terms", {}).get("loss_freekd", {}).get("prompts"))
        )
        return dict(metric=len(trained) / 8, mean_ratio=None)

    monkeypatch.setattr(sweep, "measure", measure)
    monkeypatch.chdir(ROOT)
    for seeds in ("0", "1"), ("1", "2"):
        names = ["--variants", "student alone", "FreeKD and MSE"]
        sweep.main(["demo", "detection", *names, "--seeds", *seeds, "--work-dir", str(tmp_path)])
    assert trained == [(seed, "", prompts) for seed in (0, 1, 2) for prompts in (None, f"{{}} of seed {seed}")]
    assert [run["metric"] for run in module("measure").load("study_demo")] == [run / 8 for run in range(1, 7)]
    assert "| detection | student alone | 0.375 box AP | 0.125, 0.375, 0.625 |" in capsys.readouterr().out


def test_the_page_is_made_of_the_results(module):
    assert (ROOT / "docs" / "benchmarks.md").read_text() == module("report").build()
