"""The benchmarks compare equal things, and their page says what was measured."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

from freqkd.losses import FreeKDLoss

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def module(monkeypatch):
    """Return `module(name)`: a file of benchmarks/."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module
    for name in ("measure", "released", "report", "report_students", "report_tables"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("num_prompts", [2, 6])
def test_the_released_form_is_the_same_loss(module, num_prompts):
    pytest.importorskip("pytorch_wavelets")
    torch.manual_seed(0)
    plain = module("released").PlainFreeKD(4, 2, num_prompts)
    ours = FreeKDLoss(4, 2, num_prompts, "official")
    ours.load_prompts({f"prompts.{level}.tokens": tokens for level, tokens in enumerate(plain.tokens)})
    students, teachers = ([torch.randn(2, 4, *size) for size in ((13, 21), (7, 11))] for _ in "st")
    for student in students:
        student.requires_grad_()
    expected, actual = plain(students, teachers), ours(students, teachers)
    torch.testing.assert_close(actual, expected)
    for one, other in zip(torch.autograd.grad(actual, students), torch.autograd.grad(expected, students)):
        torch.testing.assert_close(one, other)


def test_every_row_is_timed_and_the_peak_is_seen(module):
    measure = module("measure")
    calls = []
    times = measure.interleave(dict(a=lambda: calls.append("a"), b=lambda: calls.append("b")), repeats=3, warm=1)
    assert calls == ["a", "b"] * 4
    assert all(row["low"] <= row["median"] <= row["high"] for row in times.values())

    def call():
        torch.ones(2**20)
        torch.ones(2**18).add(1)

    call.reset = lambda: None
    assert 2**22 <= measure.peak_bytes(call) < 2**22 + 2**18


def test_the_page_is_made_of_the_results(module):
    assert (ROOT / "docs" / "benchmarks.md").read_text() == module("report").build()
