"""Frequency-domain knowledge distillation for detectors and segmenters.

Importing the package imports nothing heavy: public names are fetched from their modules on first use.

>>> import freqkd
>>> freqkd.wavedec2.__module__
'freqkd.wavelets'
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "wavelets": ("Subbands", "wavedec2", "waverec2"),
    "prompts": ("FrequencyPrompt", "jaccard_overlap", "dice_overlap", "mask_deviation"),
    "relation": ("ChannelGate", "channel_relation", "relation_weights"),
    "taps": ("FeatureTap", "FeatureEdit"),
    "align": ("ConvAlign", "ResizeAlign"),
    "losses": (
        "BCKDLoss",
        "CWDLoss",
        "CrossKDLoss",
        "FreeKDLoss",
        "L2Loss",
        "LDLoss",
        "LogitLoss",
        "MLKDLoss",
        "MSELoss",
        "PKDLoss",
        "annealing_kd_loss",
        "cwd_loss",
        "dist_loss",
        "dkd_loss",
        "dtkd_loss",
        "freekd_loss",
        "kd_loss",
        "l2_loss",
        "ld_loss",
        "mse_loss",
        "nkd_loss",
        "normkd_loss",
        "pkd_loss",
        "quality_focal_loss",
        "sdd_loss",
        "standardized_kd_loss",
    ),
    "distillers": ("Distiller", "DistillTerm", "PromptTuner", "Teacher"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'freqkd' has no attribute {name!r}")
    return getattr(importlib.import_module(f"freqkd.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
