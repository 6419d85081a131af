"""Tasks of the demo: a shipped config for each stage, and how long each takes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import Config

from freqkd.apis.export import count_parameters
from freqkd.utils.compat import read_config

STAGES = ("teacher", "prompts", "alone", "distilled", "combined")
# Seconds per step on two quiet cores, for the announcement alone; every stage is then measured.
PACE = {
    "detection": dict(prompts=0.33, alone=0.23, distilled=0.42, combined=0.46),
    "segmentation": dict(prompts=0.25, alone=0.22, distilled=0.37, combined=0.41),
}
MIN_DEVIATION = 0.01
MIN_RATIO = 0.1


@dataclass(frozen=True)
class Task:
    """One half of the demo: a config per stage, and the metric."""

    teacher: str
    prompts: str
    alone: str
    distilled: str
    combined: str
    feature_terms: str
    logit_term: str
    metric: str
    metric_name: str
    scale: float
    pictures: tuple[int, ...]

    def config(self, stage: str) -> Config:
        return read_config(getattr(self, stage))


TASKS = {
    "detection": Task(
        teacher="configs/baselines/retinanet_r18w48_b8-36e_blood-cells.py",
        prompts="configs/freekd/prompts_neck_retinanet-r18w48_b8-4e_blood-cells.py",
        alone="configs/baselines/retinanet_r18w16_b8-12e_blood-cells.py",
        distilled="configs/freekd/freekd-mse_neck_retinanet-r18w48_retinanet-r18w16_b8-12e_blood-cells.py",
        combined="configs/freekd/freekd-mse-binary-kd_neck-logits_retinanet-r18w48_retinanet-r18w16_b8-12e_blood-cells.py",
        feature_terms="FreeKD + MSE",
        logit_term="binary KD",
        metric="coco/bbox_mAP",
        metric_name="box AP",
        scale=1.0,
        pictures=(3, 20),
    ),
    "segmentation": Task(
        teacher="configs/baselines/semantic-fpn_r18w48_b8-1200i_road-scenes.py",
        prompts="configs/freekd/prompts_neck_semantic-fpn-r18w48_b8-80i_road-scenes.py",
        alone="configs/baselines/semantic-fpn_r18w16_b8-300i_road-scenes.py",
        distilled="configs/freekd/freekd_neck_semantic-fpn-r18w48_semantic-fpn-r18w16_b8-300i_road-scenes.py",
        combined="configs/freekd/freekd-cwd_neck-logits_semantic-fpn-r18w48_semantic-fpn-r18w16_b8-300i_road-scenes.py",
        feature_terms="FreeKD",
        logit_term="CWD",
        metric="mIoU",
        metric_name="mIoU",
        scale=0.01,
        pictures=(5, 30),
    ),
}


class DemoError(ValueError):
    """The demo ran but did not show what it must."""


def say(text: str = "") -> None:
    print(text, flush=True)


def steps_of(config: Config) -> int:
    """Count the optimizer steps of a training config."""
    if config.train_cfg.get("max_iters"):
        return int(config.train_cfg.max_iters)
    with open(Path(config.train_dataloader.dataset.data_root) / config.train_dataloader.dataset.ann_file) as file:
        content = json.load(file)
    used = len({box["image_id"] for box in content["annotations"]})
    return int(config.train_cfg.max_epochs) * -(-used // int(config.train_dataloader.batch_size))


def announce(root: Path) -> None:
    """Say how many steps, minutes and MB the demo will take."""
    seconds, steps = 0.0, 0
    for name, task in TASKS.items():
        for stage in STAGES[1:]:
            count = steps_of(task.config(stage))
            steps += count
            seconds += count * PACE[name][stage] + 15
    # Adam keeps two more numbers per weight, and the students come in three versions each.
    students = sum(count_parameters(task.config("alone")) for task in TASKS.values())
    megabytes = 3 * students * 3 * 4 / 1e6 + 10
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    say(
        f"freqkd demo: two tasks, {steps} training steps, about {seconds / 60:.0f} minutes on two quiet cores "
        f"(here: {device}), {megabytes:.0f} MB in {root}. Interrupt it when you like: it goes on from there."
    )
