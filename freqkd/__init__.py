"""Frequency-domain knowledge distillation for detectors and segmenters.

Importing the package imports nothing heavy: public names are fetched from their modules on first use, those of
every loss from `freqkd.losses`.

>>> import freqkd
>>> freqkd.wavedec2.__module__
'freqkd.losses.freekd.wavelets'
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "taps": ("FeatureTap", "FeatureEdit"),
    "align": ("ConvAlign", "KANAlign", "ResizeAlign"),
    "kan": ("KANConv2d", "KANLinear"),
    "models": ("BandHeadTuner", "Distiller", "DistillTerm", "PromptTuner"),
    "teacher": ("CachedTeacher", "Teacher"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"freqkd.{_HOME[name]}"), name)
    if not name.startswith("_"):
        losses = importlib.import_module("freqkd.losses")
        if name in losses.__all__:
            return getattr(losses, name)
    raise AttributeError(f"module 'freqkd' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, *importlib.import_module("freqkd.losses").__all__])
