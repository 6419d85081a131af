"""Which logit term helps FreeKD most? Students are trained on a part of the training split and judged on the rest of it.

The validation split stays unseen, so that the demo's numbers on it are no maximum over what was tried. Every run is one
entry of the results file, runs found there are not repeated, and each run that stops is resumed.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from freqkd.cli import run_tool, train
from freqkd.compat import read_config
from freqkd.hooks.progress import SECONDS

PAIR = {
    "detection": "retinanet-r18w48_retinanet-r18w16_b8-12e_blood-cells",
    "segmentation": "semantic-fpn-r18w48_semantic-fpn-r18w16_b8-300i_road-scenes",
}
FOLDER = {"detection": "configs/blood_cells", "segmentation": "configs/road_scenes"}
PROMPTS = {
    "detection": "prompts_neck_retinanet-r18w48_b8-4e_blood-cells",
    "segmentation": "prompts_neck_semantic-fpn-r18w48_b8-80i_road-scenes",
}
METRIC = {"detection": "coco/bbox_mAP", "segmentation": "mIoU"}
# Names of the shipped configs of each term; "none" is FreeKD without a logit term, "alone" the student without a teacher.
TERMS = {
    "detection": ("quality-focal-kd_logits", "binary-kd_logits", "crosskd_head", "none", "alone"),
    "segmentation": (
        "kd_logits",
        "cwd_logits",
        "dist_logits",
        "standardized-dkd_logits",
        "normkd_logits",
        "none",
        "alone",
    ),
}


def hold_out_cells(config: Config, folder: Path) -> None:
    """Judge on 45 of the 205 training images of the blood cells, drawn with seed 0; train on the other 160."""
    root = Path(config.train_dataloader.dataset.data_root)
    content = json.loads((root / "annotations/instances_train.json").read_text())
    held = set(random.Random(0).sample([image["id"] for image in content["images"]], 45))
    for name, keep in (("rest", False), ("held", True)):
        part = dict(content)
        part["images"] = [image for image in content["images"] if (image["id"] in held) == keep]
        part["annotations"] = [box for box in content["annotations"] if (box["image_id"] in held) == keep]
        (folder / f"{name}.json").write_text(json.dumps(part))
    config.train_dataloader.dataset.ann_file = str((folder / "rest.json").resolve())
    config.val_dataloader.dataset.ann_file = str((folder / "held.json").resolve())
    config.val_dataloader.dataset.data_prefix = dict(img="images/train/")
    config.val_evaluator.ann_file = str((folder / "held.json").resolve())


def hold_out_roads(config: Config, folder: Path) -> None:
    """Judge on every fifth block of eight neighbouring frames of the road scenes: neighbours look alike."""
    dataset = config.train_dataloader.dataset
    frames = sorted(path.stem for path in Path(dataset.data_root, dataset.data_prefix.img_path).glob("*.jpg"))
    for name, keep in (("rest", False), ("held", True)):
        part = [frame for index, frame in enumerate(frames) if (index // 8 % 5 == 0) == keep]
        (folder / f"{name}.txt").write_text("\n".join(part) + "\n")
    dataset.ann_file = str((folder / "rest.txt").resolve())
    config.val_dataloader.dataset.data_prefix = dict(dataset.data_prefix)
    config.val_dataloader.dataset.ann_file = str((folder / "held.txt").resolve())


def run_config(task: str, term: str, share: float, seed: int, root: Path) -> Config:
    """The config of one run: the shipped FreeKD config plus the logit term of the term's own shipped config."""
    folder, pair = FOLDER[task], PAIR[task]
    config = read_config(f"{folder}/freekd_neck_{pair}.py")
    config.model.terms.loss_freekd.prompts = str(root / task / "prompts" / "prompts.pth")
    if term == "alone":
        config.model = config.model.student
    elif term != "none":
        config.model.terms.loss_logit = read_config(f"{folder}/{term}_{pair}.py").model.terms.loss_logit
        config.model.terms.loss_logit.weight.share = share
    config.work_dir = str(root / task / f"{term}_share{share:g}_seed{seed}")
    config.randomness.seed = seed
    config.resume = True
    config.experiment_name = f"selection_{task}_{term}_{seed}_{time.time_ns()}"
    (hold_out_cells if task == "detection" else hold_out_roads)(config, root / task)
    config.custom_hooks = [*(config.get("custom_hooks") or []), dict(type="freqkd.ProgressHook", label=term)]
    return config


def measure(task: str, term: str, share: float, seed: int, root: Path) -> dict[str, Any]:
    """Train one student and return what it scores on the held-out part."""
    runner = train(run_config(task, term, share, seed, root))
    metric = float(runner.message_hub.get_scalar(f"val/{METRIC[task]}").current())
    shares = runner.message_hub.log_scalars.get("train/share/loss_logit")
    return dict(
        task=task,
        term=term,
        share=share,
        seed=seed,
        metric=metric,
        mean_share=float(shares.data[0].mean()) if shares is not None else None,
        seconds=float(runner.message_hub.runtime_info[SECONDS]),
    )


def train_prompts(task: str, root: Path) -> None:
    """Run the prompt stage of a task, unless it was run before."""
    if not (root / task / "prompts" / "prompts.pth").exists():
        config = read_config(f"{FOLDER[task]}/{PROMPTS[task]}.py")
        config.work_dir = str(root / task / "prompts")
        train(config)


def complete_runs(
    results: Path, keys: Iterable[tuple[str, str, float, int]], measure: Callable[..., dict[str, Any]]
) -> None:
    """Measure what the results file lacks, a line for each (task, term, share, seed), and print it all."""
    runs = json.loads(results.read_text()) if results.exists() else []
    for key in keys:
        if key not in {(run["task"], run["term"], run["share"], run["seed"]) for run in runs}:
            runs.append(measure(*key))
            results.write_text("[\n" + ",\n".join(json.dumps(run) for run in runs) + "\n]\n")
    print_table(runs)


def print_table(runs: Sequence[dict[str, Any]]) -> None:
    """Print mean and every seed of each term, the best first."""
    for task in FOLDER:
        found: dict[tuple[str, float], list[float]] = {}
        for run in runs:
            if run["task"] == task:
                found.setdefault((run["term"], run["share"]), []).append(run["metric"])
        for (term, share), values in sorted(found.items(), key=lambda item: -statistics.mean(item[1])):
            each = ", ".join(f"{value:.3f}" for value in values)
            print(f"{task:14}{term:26}share {share:<5g}{statistics.mean(values):8.3f}  ({each})")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=sorted(FOLDER))
    parser.add_argument("--terms", nargs="+", help="names of shipped configs, 'none' or 'alone'; default: a choice")
    parser.add_argument(
        "--share", type=float, default=0.5, help="share of the task's gradient that the logit term gets"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--work-dir", default="work_dirs/term_selection")
    parser.add_argument("--results", help="default: benchmarks/results/term_selection_TASK.json")
    options = parser.parse_args(arguments)
    root, results = Path(options.work_dir), Path(f"benchmarks/results/term_selection_{options.task}.json")
    results = Path(options.results or results)
    (root / options.task).mkdir(parents=True, exist_ok=True)
    train_prompts(options.task, root)
    terms = options.terms or TERMS[options.task]
    shares = {term: 0.0 if term in ("none", "alone") else options.share for term in terms}
    keys = [(options.task, term, shares[term], seed) for seed in options.seeds for term in terms]
    complete_runs(results, keys, lambda *key: measure(*key, root))


if __name__ == "__main__":
    sys.exit(run_tool(main))
