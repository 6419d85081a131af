"""The benchmarks compare equal things, and the page says what was measured."""

import importlib
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


def test_the_page_is_made_of_the_results(module):
    assert (ROOT / "docs" / "benchmarks.md").read_text() == module("report").build()
