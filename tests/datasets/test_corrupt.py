"""Corruption of images: the package's own result on RGB, the same in every call, another for another image or severity."""

from __future__ import annotations

import random
import sys

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope

from freqkd.datasets.corrupt import KINDS, Corrupt
from freqkd.registry import TRANSFORMS

imagecorruptions = pytest.importorskip("imagecorruptions")
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)


def apply(kind, severity=3, path="images/a.jpg", image=IMAGE):
    return Corrupt(kind, severity)(dict(img=image.copy(), img_path=path))["img"]


def test_the_kinds_are_those_of_the_benchmark():
    assert list(KINDS) == imagecorruptions.get_corruption_names("common")


GLASS = pytest.param("glass_blur", marks=pytest.mark.long)  # numba compiles it, in five seconds


@pytest.mark.parametrize("kind", [GLASS if kind == "glass_blur" else kind for kind in KINDS])
def test_an_image_is_corrupted_once_and_for_all(kind):
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    first = apply(kind)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[:2]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert (first.dtype, first.shape) == (np.uint8, IMAGE.shape)
    np.random.rand(7)
    np.testing.assert_array_equal(apply(kind, path="elsewhere/a.jpg"), first)
    assert (first != IMAGE).any()
    assert (apply(kind, 4) != first).any()


@pytest.mark.parametrize("kind", ["gaussian_noise", "impulse_noise", GLASS, "frost", "fog"])
def test_other_images_get_other_random_numbers(kind):
    assert (apply(kind, path="images/b.jpg") != apply(kind)).any()


@pytest.mark.parametrize("kind", ["brightness", "jpeg_compression", "contrast"])
def test_red_and_blue_are_where_the_package_expects_them(kind):
    image = np.zeros((40, 52, 3), np.uint8)
    image[..., 0], image[10:30, :, 2] = 30, 200  # blue, with a red bar
    expected = imagecorruptions.corrupt(image[..., ::-1].copy(), 3, kind)[..., ::-1]
    np.testing.assert_array_equal(apply(kind, image=image), expected)
    if kind == "jpeg_compression":  # which keeps brightness better than colour
        assert (imagecorruptions.corrupt(image, 3, kind) != expected).any()


def test_the_type_of_the_image_is_kept():
    np.testing.assert_array_equal(apply("fog", image=IMAGE.astype(np.float32)), apply("fog").astype(np.float32))


@pytest.mark.parametrize("shape", [(40, 52), (40, 52, 1), (31, 52, 3)])
def test_an_image_that_cannot_be_corrupted_is_refused(shape):
    with pytest.raises(ValueError, match=r"^an image to corrupt must have three channels .* got a\.jpg of shape \("):
        apply("fog", image=np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(kind="rain", severity=1), "kind must be one of 'gaussian_noise', .*, got 'rain'"),
        (dict(kind="fog", severity=0), "severity must be at least 1, got 0"),
        (dict(kind="fog", severity=6), "severity must be at most 5, got 6"),
    ],
)
def test_kinds_and_severities_are_checked(options, message):
    with DefaultScope.overwrite_default_scope("mmseg"), pytest.raises(ValueError, match=message):
        TRANSFORMS.build(dict(type="freqkd.Corrupt", **options))


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(ImportError, match=r"needs imagecorruptions-imaug .*; pip install imagecorruptions-imaug$"):
        Corrupt("fog", 1)
