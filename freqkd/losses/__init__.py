"""Distillation losses, one file for each method: a pure function and a module `...Loss` of the same name.

Every name in the `__all__` of a module below stands here too, so a new loss needs no entry.

>>> from freqkd import losses
>>> losses.MSELoss.__module__
'freqkd.losses.mse'
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

__all__: list[str] = []


def _collect() -> None:
    for module in pkgutil.walk_packages(__path__, f"{__name__}."):
        public = importlib.import_module(module.name)
        for name in getattr(public, "__all__", ()):
            globals()[name] = getattr(public, name)
            __all__.append(name)


_collect()


def __getattr__(name: str) -> Any:  # for type checkers, which do not run `_collect`
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
