"""Files of first stages that a config names, as their training starts from them."""

from __future__ import annotations

from pathlib import Path

import torch
from mmengine.registry import MODELS, DefaultScope

from freqkd.utils.checkpoints import STATE
from freqkd.utils.compat import read_config

ROOT = Path(__file__).resolve().parent.parent


def write_band_head(named: str, path: Path) -> str:
    """Write to a path the checkpoint that a config names as its band head, before its stage has trained it."""
    (stage,) = ROOT.glob(f"configs/*/{Path(named).parent.name}.py")
    config = read_config(stage)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        tuner = MODELS.build(config.model)
        tuner.init_weights()
    torch.save({"state_dict": tuner.state_dict(), STATE: dict(identity=tuner.identity())}, path)
    return str(path)
