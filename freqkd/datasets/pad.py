"""Padding of detection images to the scale that they were resized to, upright or lying."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.registry import TRANSFORMS

from freqkd.utils.checks import check_sequence, check_whole


class PadToScale:
    """mmdet's `Pad` at the right and at the bottom to a scale, as `Resize(keep_ratio=True)` takes it: whichever side is longer.

    All images of a batch have one size then, if its batch sampler is `AspectRatioBatchSampler` or the scale a square, as a
    cached teacher needs it: padding changes a teacher's maps, so that a batch's padding may not depend on its other images.

    Config::

        dict(type='freqkd.PadToScale', scale=(1333, 800), pad_val=(104, 116, 124))  # before PackDetInputs

    Args:
        scale: the longer and the shorter side, in either order.
        pad_val: value of each channel, in the order of the image's channels.

    Raises:
        ValueError: `scale` is not two whole numbers above 0.
    """

    def __init__(self, scale: Sequence[int], pad_val: Sequence[float] = (0, 0, 0)) -> None:
        check_sequence("scale", scale, "two whole numbers")
        if len(scale) != 2:
            raise ValueError(f"scale must be two numbers, e.g. (1333, 800), got {scale!r}")
        for side in scale:
            check_whole("scale", side, 1)
        long, short = max(scale), min(scale)
        self.lying, self.upright = (
            TRANSFORMS.build(dict(type="mmdet.Pad", size=size, pad_val=dict(img=tuple(pad_val))))
            for size in ((long, short), (short, long))
        )

    def __call__(self, results: dict[str, Any]) -> Any:
        """Pad the image, and masks where the results have them."""
        height, width = results["img"].shape[:2]
        return (self.lying if width >= height else self.upright)(results)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.lying}, {self.upright})"
