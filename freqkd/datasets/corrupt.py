"""Corruption of images by kind and severity, as robustness is measured; the same for an image in every run."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from importlib import metadata
from pathlib import PurePath
from typing import Any

import numpy as np

from freqkd.datasets.fixed_views import seeded
from freqkd.utils.checks import check_choice, check_whole

PACKAGE = "imagecorruptions-imaug"
GROUPS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
KINDS = tuple(kind for kinds in GROUPS.values() for kind in kinds)
SEVEREST = 5
LEAST_SIDE = 32  # pixels, of an image that can be corrupted
_SEEDED = ("glass_blur", "impulse_noise")  # do not draw from numpy's global generator


def import_corrupt() -> tuple[Callable[..., Any], str]:
    """Return the function `imagecorruptions.corrupt` and the version of its package.

    Raises:
        ImportError: the package cannot be imported, or is an older one of the same name, whose random numbers cannot be fixed.
    """
    try:
        from imagecorruptions import corrupt

        return corrupt, metadata.version(PACKAGE)
    except ImportError as error:
        raise ImportError(
            f"corruption of images needs {PACKAGE} ({error}); pip uninstall -y imagecorruptions; pip install {PACKAGE}"
        ) from error


class Corrupt:
    """One of 15 corruptions of common kinds (noise, blur, weather, digital), at a severity from 1 to 5.

    What is drawn at random depends on the image's file name, the kind and the severity only: every network, process and run
    gets the same image. mmdet's transform of this name is not in the maintained family, draws anew in every run, and gives
    the package images whose red and blue are exchanged.

    Config::

        dict(type='freqkd.Corrupt', kind='fog', severity=3)  # after LoadImageFromFile

    Args:
        kind: one of `KINDS`.
        severity: from 1 to 5.

    Raises:
        ValueError: an argument out of range; when called: the image has no three channels, or is too small.
        ImportError: the package imagecorruptions cannot be imported.

    References:
        Hendrycks and Dietterich, arXiv 1903.12261; on detection, Michaelis et al., arXiv 1907.07484.
    """

    def __init__(self, kind: str, severity: int) -> None:
        check_choice("kind", kind, KINDS)
        check_whole("severity", severity, 1, SEVEREST)
        self.kind, self.severity = kind, severity
        self._corrupt, _ = import_corrupt()

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Corrupt the image (H, W, 3), whose channels are blue, green and red, as mmcv loads them."""
        image, name = results["img"], PurePath(results["img_path"]).name
        if image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < LEAST_SIDE:
            raise ValueError(
                f"an image to corrupt must have three channels and at least {LEAST_SIDE}x{LEAST_SIDE} pixels, got {name} of "
                f"shape {image.shape}; leave it out of the split"
            )
        seed = zlib.crc32(f"{name} {self.kind} {self.severity}".encode())
        options = dict(seed=seed) if self.kind in _SEEDED else {}
        rgb = np.ascontiguousarray(image[..., ::-1]).astype(np.uint8)
        with seeded(seed):
            found = self._corrupt(rgb, self.severity, self.kind, **options)
        results["img"] = np.ascontiguousarray(found[..., ::-1]).astype(image.dtype)
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(kind={self.kind!r}, severity={self.severity})"
