"""Frequency-domain knowledge distillation for detectors and segmenters.

Importing the package imports nothing heavy: public names are fetched from their modules on first use. Every loss stands in
`freqkd.losses`; the best known ones also here.

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
    "losses": ("FreeKDLoss", "freekd_loss", "MSELoss", "mse_loss", "PKDLoss", "pkd_loss", "CWDLoss", "LogitLoss"),
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
