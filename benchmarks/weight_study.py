"""How strong should one term be? Students with one term at several weights, judged on a part of the training split.

The parts are those of `term_selection.py`: the validation split stays unseen. The teacher is cached, four views of every
image. Runs found in the results file are not repeated, and a run that stops is resumed.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from term_selection import (
    FOLDER,
    METRIC,
    PAIR,
    complete_runs,
    hold_out_cells,
    hold_out_roads,
    train_prompts,
)

from freqkd.cli import run_tool, train
from freqkd.compat import read_config
from freqkd.hooks.progress import SECONDS

VIEWS = 4
# Each term's shipped config, and the shares tried. "mse" is the term of FreeKD's config with another loss; "freekd-mse" has
# that one beside FreeKD, as the authors of FreeKD train detectors; what follows a "+" is added as shipped.
TERMS: dict[str, dict[str, tuple[float, ...]]] = {
    "detection": {
        "alone": (0.0,),
        "freekd_neck": (1.0, 2.0, 4.0),
        "mse": (1.0, 4.0, 8.0, 16.0),
        "freekd-mse": (4.0, 8.0, 16.0),
        "freekd-mse+binary-kd_logits": (16.0,),
        "quality-focal-kd_logits": (0.5, 2.0, 4.0),
        "binary-kd_logits": (0.5, 2.0, 4.0),
    },
    "segmentation": {
        "alone": (0.0,),
        "freekd_neck": (0.5, 1.0, 2.0, 4.0),
        "mse": (0.5, 2.0),
        "cwd_logits": (0.5, 2.0, 4.0),
        "kd_logits": (0.5, 2.0, 4.0),
    },
}


def run_config(task: str, term: str, share: float, seed: int, root: Path) -> Config:
    """The shipped config of one term, its weight replaced and its teacher cached."""
    whole, (term, _, logit) = term, term.partition("+")
    shipped = "freekd_neck" if term in ("alone", "mse", "freekd-mse") else term
    config = read_config(f"{FOLDER[task]}/{shipped}_{PAIR[task]}.py")
    (name,) = config.model.terms
    chosen = config.model.terms[name]
    if chosen.get("prompts"):
        chosen.prompts = str(root / task / "prompts" / "prompts.pth")
    if term in ("mse", "freekd-mse"):
        mse = copy.deepcopy(chosen)
        del mse["prompts"]
        mse.loss = dict(type="freqkd.MSELoss")
        if term == "mse":
            del config.model.terms[name]
        config.model.terms.loss_mse = chosen = mse
    if term == "alone":
        config.model = config.model.student
    else:
        chosen.weight = dict(share=share, iters=50)
        if logit:
            config.model.terms.loss_logit = read_config(
                f"{FOLDER[task]}/{logit}_{PAIR[task]}.py"
            ).model.terms.loss_logit
        taps = "-".join(sorted({one.student for one in config.model.terms.values()}))
        config.model.teacher.cache = dict(dir=str(root / task / f"cache_{taps}"), views=VIEWS)
    (hold_out_cells if task == "detection" else hold_out_roads)(config, root / task)
    loader = config.train_dataloader
    loader.dataset = dict(type="freqkd.FixedViews", views=VIEWS, dataset=loader.dataset)
    config.work_dir = str(root / task / f"{whole}_share{share:g}_seed{seed}")
    config.randomness.seed, config.resume = seed, True
    config.experiment_name = f"weights_{task}_{term}_{seed}_{time.time_ns()}"
    config.custom_hooks = [*(config.get("custom_hooks") or []), dict(type="freqkd.ProgressHook", label=term)]
    return config


def train_student(task: str, config: Config) -> dict[str, Any]:
    """Train and return metric, mean share of the gradient and seconds."""
    runner = train(config)
    scalars = runner.message_hub.log_scalars
    names = (f"train/share/{name}" for name in ("loss_mse", "loss_freekd", "loss_logit"))
    shares = [scalars[name] for name in names if name in scalars]
    return dict(
        metric=float(runner.message_hub.get_scalar(f"val/{METRIC[task]}").current()),
        mean_share=float(shares[0].data[0].mean()) if shares else None,
        seconds=float(runner.message_hub.runtime_info[SECONDS]),
    )


def measure(task: str, term: str, share: float, seed: int, root: Path) -> dict[str, Any]:
    """Train one student and return what it scores on the held-out part."""
    found = train_student(task, run_config(task, term, share, seed, root))
    return dict(task=task, term=term, share=share, seed=seed, **found)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=sorted(FOLDER))
    parser.add_argument("--terms", nargs="+", help="of the table in this file; default: all of the task")
    parser.add_argument("--shares", type=float, nargs="+", help="default: those of the table in this file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--work-dir", default="work_dirs/weight_study")
    options = parser.parse_args(arguments)
    task, root = options.task, Path(options.work_dir)
    results = Path(f"benchmarks/results/weight_study_{task}.json")
    (root / task).mkdir(parents=True, exist_ok=True)
    train_prompts(task, root)
    pairs = [(term, share) for term in options.terms or TERMS[task] for share in options.shares or TERMS[task][term]]
    keys = [(task, *pair, seed) for seed in options.seeds for pair in pairs]
    complete_runs(results, keys, lambda *key: measure(*key, root))


if __name__ == "__main__":
    sys.exit(run_tool(main))
