"""What a cached teacher saves and costs: time and metric of the sample students, uncached and with K views, over seeds.

A cache is shared by the seeds of a K, as it would be by the runs of a study: the first seed pays for it. Runs found in the
results file are not repeated, and a run that stops is resumed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from term_selection import FOLDER, METRIC, PAIR, train_prompts, write_runs

from freqkd.cli import run_tool, train
from freqkd.compat import read_config
from freqkd.hooks.progress import SECONDS

COLUMNS = ("alone", "uncached", "1", "4", "16")


def run_config(task: str, column: str, seed: int, root: Path) -> Config:
    """The shipped config of the student alone, of FreeKD, or of FreeKD with a cache of K views."""
    if column == "alone":
        name = {
            "detection": "retinanet_r18w16_b8-12e_blood-cells",
            "segmentation": "semantic-fpn_r18w16_b8-300i_road-scenes",
        }
        config = read_config(f"{FOLDER[task]}/{name[task]}.py")
    else:
        method = "freekd" if column == "uncached" else "freekd-cached"
        config = read_config(f"{FOLDER[task]}/{method}_neck_{PAIR[task]}.py")
        config.model.terms.loss_freekd.prompts = str(root / task / "prompts" / "prompts.pth")
        if column != "uncached":
            config.train_dataloader.dataset.views = int(column)
            config.model.teacher.cache = dict(dir=str(root / task / f"cache{column}"), views=int(column))
    config.work_dir = str(root / task / f"{column}_seed{seed}")
    config.randomness.seed, config.resume = seed, True
    config.experiment_name = f"cached_{task}_{column}_{seed}_{time.time_ns()}"
    config.custom_hooks = [*(config.get("custom_hooks") or []), dict(type="freqkd.ProgressHook", label=column)]
    return config


def measure(task: str, column: str, seed: int, root: Path) -> dict[str, Any]:
    """Train one student: its metric on the validation split, its seconds, and its median step over the last third."""
    runner = train(run_config(task, column, seed, root))
    steps = runner.message_hub.get_scalar("train/time").data[0]
    return dict(
        task=task,
        column=column,
        seed=seed,
        metric=float(runner.message_hub.get_scalar(f"val/{METRIC[task]}").current()),
        seconds=float(runner.message_hub.runtime_info[SECONDS]),
        late_step=float(statistics.median(steps[-len(steps) // 3 :])),
        threads=torch.get_num_threads(),
    )


def print_table(runs: Sequence[dict[str, Any]], task: str) -> None:
    """Print mean, spread and time of every column."""
    for column in COLUMNS:
        chosen = [run for run in runs if (run["task"], run["column"]) == (task, column)]
        if chosen:
            values, seconds = [run["metric"] for run in chosen], [run["seconds"] for run in chosen]
            print(
                f"{task:14}{column:10}{statistics.mean(values):8.3f}  ({min(values):.3f} to {max(values):.3f}, "
                f"{len(values)} seeds)  {min(seconds):5.0f} to {max(seconds):.0f} s"
            )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=sorted(FOLDER))
    parser.add_argument("--columns", nargs="+", default=list(COLUMNS), help="alone, uncached, or numbers of views")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work-dir", default="work_dirs/cached_teacher")
    options = parser.parse_args(arguments)
    root, results = Path(options.work_dir), Path(f"benchmarks/results/cached_teacher_{options.task}.json")
    train_prompts(options.task, root)
    runs = json.loads(results.read_text()) if results.exists() else []
    for seed in options.seeds:
        for column in options.columns:
            if (column, seed) not in {(run["column"], run["seed"]) for run in runs}:
                runs.append(measure(options.task, column, seed, root))
                write_runs(results, runs)
    print_table(runs, options.task)


if __name__ == "__main__":
    sys.exit(run_tool(main))
