"""Shipped configs by name, and prompt files of a prompt stage without training."""

from __future__ import annotations

from pathlib import Path

from measure import ROOT
from mmengine.config import Config

from freqkd.models.prompt_file import write_prompts
from freqkd.registry import MODELS
from freqkd.utils.compat import read_config

STUDENT = {
    "detection": "retinanet_r18w16_b8-12e_blood-cells",
    "segmentation": "semantic-fpn_r18w16_b8-300i_road-scenes",
}
PAIR = {
    "detection": "retinanet-r18w48_retinanet-r18w16_b8-12e_blood-cells",
    "segmentation": "semantic-fpn-r18w48_semantic-fpn-r18w16_b8-300i_road-scenes",
}


def find_config(name: str) -> Config:
    """Read the shipped config of a name."""
    (path,) = (ROOT / "configs").rglob(f"{name}.py")
    return read_config(str(path))


def sample_config(task: str, method: str) -> Config:
    """Read a sample's config by its method, `"freekd_neck"`; `""` is the student alone."""
    return find_config(f"{method}_{PAIR[task]}" if method else STUDENT[task])


def prompt_stage(prompts: str) -> Config:
    """Read the config of the prompt stage that writes the file which a distillation names."""
    return find_config(Path(prompts).parent.name)


def write_untrained(stage: Config, path: Path) -> str:
    """Write the prompts that a prompt stage starts from, and return the file's name."""
    write_prompts(MODELS.build(stage.model), str(path))
    return str(path)
