"""ONNX of a student: what onnxruntime makes of it is what torch gives, and other numbers are refused."""

import importlib.machinery
import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from small_networks import small  # noqa: F401
from torch import nn

from freqkd.apis.complexity import random_image
from freqkd.apis.onnx import check_onnx, export_onnx

IMAGES = torch.linspace(-1, 1, 48).reshape(1, 3, 4, 4)


@pytest.fixture
def runtime(monkeypatch):
    """Return `runtime(outputs)`: a stand-in for onnxruntime that gives these, whatever the file."""

    def use(outputs):
        module = ModuleType("onnxruntime")
        module.__spec__ = importlib.machinery.ModuleSpec("onnxruntime", None)
        session = SimpleNamespace(run=lambda names, feed: [one.numpy() for one in outputs])
        module.InferenceSession = lambda path, providers: session
        monkeypatch.setitem(sys.modules, "onnxruntime", module)

    return use


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_onnxruntime_gives_the_raw_outputs_of_the_heads(small, tmp_path, task):  # noqa: F811
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    network = small.build(small.config(task, 4), task).eval()
    images = random_image(network, (64, 96))
    expected = export_onnx(network, tmp_path / "student.onnx", images)
    assert len(expected) == dict(detection=10, segmentation=1)[task]
    assert check_onnx(tmp_path / "student.onnx", images, expected) < 1e-4
    with torch.no_grad():
        next(network.parameters()).mul_(2)
        changed = list(network(images, mode="tensor")[0]) if task == "detection" else [network(images, mode="tensor")]
    with pytest.raises(ValueError, match="must give what torch gives"):
        check_onnx(tmp_path / "student.onnx", images, [*changed, *expected[len(changed) :]])


def test_a_difference_is_told_as_a_part_of_the_largest_value_and_refused_above_a_thousandth(runtime):
    expected = [torch.tensor([[4.0, 8.0]]), torch.tensor([[1.0]])]
    runtime([expected[0] + torch.tensor([[0.004, 0.0]]), expected[1]])
    assert check_onnx("net.onnx", IMAGES, expected) == pytest.approx(0.0005, rel=1e-3)
    runtime([expected[0], expected[1] + 0.002])
    with pytest.raises(ValueError, match=r"net.onnx must give what torch gives, got a difference of 2.0e-03"):
        check_onnx("net.onnx", IMAGES, expected)
    runtime([expected[0], torch.tensor([[float("nan")]])])
    with pytest.raises(ValueError, match="a difference of nan"):
        check_onnx("net.onnx", IMAGES, expected)
    runtime(expected[:1])
    with pytest.raises(ValueError, match=r"got the shapes \[\(1, 2\)\] instead of"):
        check_onnx("net.onnx", IMAGES, expected)


def test_missing_packages_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert check_onnx(tmp_path / "net.onnx", IMAGES, []) is None
    with pytest.raises(ValueError, match=r"--onnx needs the package onnx, .*; pip install onnx onnxruntime"):
        export_onnx(nn.Conv2d(3, 1, 1), tmp_path / "net.onnx", IMAGES)


def test_what_onnx_lacks_is_said_and_leaves_no_file(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)

    def fail(*arguments, **options):
        (tmp_path / "net.draft").write_text("half")
        raise RuntimeError("no such operator")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(ValueError, match=r"Conv2d cannot be written as ONNX by torch alone \(RuntimeError: no such"):
        export_onnx(nn.Conv2d(3, 1, 1), tmp_path / "net.onnx", IMAGES)
    assert list(tmp_path.iterdir()) == []
