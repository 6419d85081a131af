"""What `freqkd.losses` and `freqkd` export."""

from __future__ import annotations

import importlib
import pkgutil

import freqkd
from freqkd import losses


def test_every_loss_that_a_module_defines_is_exported() -> None:
    missing, count = [], 0
    for found in pkgutil.walk_packages(losses.__path__, "freqkd.losses."):
        module = importlib.import_module(found.name)
        for name, value in vars(module).items():
            own = getattr(value, "__module__", None) == found.name and ".fused" not in found.name
            if own and name.endswith(("_loss", "_terms", "Loss")) and not name.startswith("_"):
                count += 1
                if getattr(losses, name, None) is not value or getattr(freqkd, name) is not value:
                    missing.append(f"{found.name}.{name}")
    assert not missing, f"add them to the __all__ of their modules: {missing}"
    assert count >= 40


def test_no_name_is_exported_twice() -> None:
    assert len(set(losses.__all__)) == len(losses.__all__)
    assert {"FrequencyPrompt", "wavedec2", "waverec2", "relation_weights", "build_softening"} <= set(losses.__all__)
    assert not [name for name in losses.__all__ if "fused" in name]
