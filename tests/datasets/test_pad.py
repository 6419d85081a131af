"""Padding to a scale: one size for lying images and one for upright ones, with boxes where they were."""

from __future__ import annotations

import numpy as np
import pytest
from mmengine.registry import DefaultScope

from freqkd.registry import TRANSFORMS


@pytest.mark.parametrize(("height", "width", "padded"), [(50, 70, (60, 80)), (70, 50, (80, 60)), (60, 60, (60, 80))])
def test_an_image_is_padded_to_the_scale_as_it_lies(height, width, padded):
    with DefaultScope.overwrite_default_scope("mmdet"):
        pad = TRANSFORMS.build(dict(type="freqkd.PadToScale", scale=(60, 80), pad_val=(1, 2, 3)))
    image = np.full((height, width, 3), 9, np.uint8)
    found = pad(dict(img=image))
    assert found["img"].shape[:2] == padded
    assert (found["img"][:height, :width] == 9).all()
    outside = np.ones(padded, bool)
    outside[:height, :width] = False
    assert (found["img"][outside] == (1, 2, 3)).all()


@pytest.mark.parametrize("scale", [80, (80,), (80, 0), "80x60"])
def test_a_scale_is_two_numbers(scale):
    with pytest.raises(ValueError, match=r"^(class `PadToScale` .*)?scale must be"):
        TRANSFORMS.build(dict(type="freqkd.PadToScale", scale=scale))
