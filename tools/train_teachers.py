"""Train the teachers of data/teachers/ again, store them in half precision, and print their metrics."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from freqkd.apis.arguments import run_tool
from freqkd.apis.export import count_parameters
from freqkd.apis.test import evaluate
from freqkd.apis.train import train
from freqkd.utils.checkpoints import hash_weights, read_checkpoint, weights_of, write_atomic
from freqkd.utils.compat import read_config
from freqkd.utils.errors import EPILOG
from freqkd.utils.files import write_whole


@dataclass(frozen=True)
class Recipe:
    """One shipped teacher: its config, its file, its metric and the factor to the range 0 to 1."""

    config: str
    file: str
    metric: str
    scale: float


RECIPES = {
    "detection": Recipe(
        "configs/baselines/retinanet_r18w48_b8-36e_blood-cells.py",
        "data/teachers/blood-cells_retinanet-r18w48.pth",
        "coco/bbox_mAP",
        1.0,
    ),
    "segmentation": Recipe(
        "configs/baselines/semantic-fpn_r18w48_b8-1200i_road-scenes.py",
        "data/teachers/road-scenes_semantic-fpn-r18w48.pth",
        "mIoU",
        0.01,
    ),
}


def make_teacher(task: str, work_dir: str) -> None:
    """Train one teacher, or resume its training, then write its weights and its card."""
    recipe = RECIPES[task]
    config = read_config(recipe.config)
    config.work_dir, config.resume, config.load_from = f"{work_dir}/{task}", True, None
    train(config)
    latest = Path(config.work_dir, "last_checkpoint").read_text().strip()
    trained = read_checkpoint(latest)
    full = evaluate(config, latest, f"{work_dir}/{task}")[recipe.metric]
    weights = {k: v.half() if v.is_floating_point() else v for k, v in weights_of(trained).items()}
    write_atomic(dict(state_dict=weights, meta=dict(dataset_meta=trained["meta"]["dataset_meta"])), recipe.file)
    half = evaluate(config, recipe.file, f"{work_dir}/{task}")[recipe.metric]
    card = dict(
        config=recipe.config,
        seed=config.randomness.seed,
        epochs=config.train_cfg.get("max_epochs"),
        iterations=config.train_cfg.get("max_iters"),
        params=count_parameters(config),
        metric=recipe.metric,
        value=round(half * recipe.scale, 4),
        value_full_precision=round(full * recipe.scale, 4),
        sha256=hashlib.sha256(Path(recipe.file).read_bytes()).hexdigest(),
        weights_hash=hash_weights(weights),
        torch=torch.__version__,
        command="make teachers",
    )
    card_file = Path(recipe.file).with_suffix(".json")
    with write_whole(card_file) as file:
        file.write((json.dumps(card, indent=2) + "\n").encode())
    print(f"{recipe.file}: {recipe.metric} {half * recipe.scale:.4f} (full precision {full * recipe.scale:.4f})")
    if abs(half - full) * recipe.scale > 0.002:
        raise ValueError(
            f"half precision moves {recipe.metric} by more than 0.002: store {recipe.file} in full precision"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG)
    parser.add_argument("--task", choices=sorted(RECIPES), help="train this one only")
    parser.add_argument(
        "--work-dir", default="work_dirs/teachers", help="folder of the trainings; interrupted ones are resumed"
    )
    options = parser.parse_args(arguments)
    for task in [options.task] if options.task else RECIPES:
        make_teacher(task, options.work_dir)


if __name__ == "__main__":
    sys.exit(run_tool(main))
