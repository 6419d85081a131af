"""An accelerated teacher has the same features: to rounding, or to the half precision that was asked for."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from freqkd.teacher import Teacher, acceleration, build_teacher
from freqkd.teacher.acceleration import fuse_checked

IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
TASKS = ("detection", "segmentation")


@pytest.fixture
def neck(teachers):
    """Return `neck(task, **options)`: the teacher with these options, and what its neck gives."""

    def run(task, **options):
        held = Teacher(**teachers(task), **options)
        return held, held.extract(IMAGES, None, ["neck"])["neck"]

    return run


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("option", ["fuse_norm", "channels_last"])
def test_same_to_rounding(neck, task, option):
    plain, expected = neck(task)
    fast, maps = neck(task, **{option: True})
    assert fast.hash == plain.hash  # of the weights as trained: prompts and caches still fit
    for fast_map, plain_map in zip(maps, expected, strict=True):
        torch.testing.assert_close(fast_map, plain_map, rtol=1e-3, atol=1e-3 * float(plain_map.abs().max()))
    norms = [m for m in fast.model.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert bool(norms) == (option != "fuse_norm")
    if option == "channels_last":
        assert maps[0].is_contiguous(memory_format=torch.channels_last)
    assert not any(p.requires_grad for p in fast.model.parameters())


@pytest.mark.parametrize("task", TASKS)
def test_half_precision(neck, task):
    _, expected = neck(task)
    _, maps = neck(task, autocast="bfloat16")
    assert maps[0].dtype == IMAGES.dtype  # adapters run heads on them without autocast
    for half_map, full_map in zip(maps, expected, strict=True):
        error = (half_map.float() - full_map).norm() / full_map.norm()
        assert 0 < error < 0.05


def test_compiled_parts_keep_the_taps_outside(neck, monkeypatch):
    monkeypatch.setattr(acceleration.torch, "compile", functools.partial(torch.compile, backend="eager"))
    torch.compiler.reset()
    _, expected = neck("detection")
    fast, maps = neck("detection", compile=True)
    for compiled_map, plain_map in zip(maps, expected, strict=True):
        torch.testing.assert_close(compiled_map, plain_map)
    with pytest.raises(ValueError, match=r"nothing to tap inside .* got the tap 'backbone.layer4'"):
        fast.extract(IMAGES, None, ["backbone.layer4"])


class _NormLast(nn.Module):
    """Its norm is listed after the convolution and used after the activation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        nn.init.normal_(self.norm.bias)

    def forward(self, images):
        return self.norm(self.conv(images).relu())


class _Network(nn.Module):
    def __init__(self, backbone, head=None) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def extract_feat(self, images):
        return self.backbone(images)


def test_a_norm_that_cannot_be_folded_is_refused():
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="fuse_norm=True changes the features of this network"):
        fuse_checked(_Network(_NormLast()).eval())


def test_heads_keep_their_norms():
    head = _NormLast().eval()
    images = torch.randn(1, 3, 8, 8)
    before = head(images)
    fuse_checked(_Network(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), head).eval())
    assert torch.equal(head(images), before)


def test_wrong_options(teachers):
    with pytest.raises(ValueError, match="autocast must be one of 'bfloat16', 'float16', got 'half'"):
        Teacher(**teachers("detection"), autocast="half")
    with pytest.raises(ValueError, match="'fuse_norm'"):
        build_teacher(dict(teachers("detection"), fuse=True))
