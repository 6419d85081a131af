"""Do FreeKD's masks help? Students of the blood cells with one part of the loss changed, judged on held-out training images.

Each variant has prompts of its own, trained as shipped; the term has the same share of the task's gradient everywhere, so that
its size does not matter. Parts of the data and the cached teacher are those of `weight_study.py`. Runs found in the results
file are not repeated.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from term_selection import FOLDER, PROMPTS, complete_runs
from weight_study import run_config, train_student

from freqkd.cli import run_tool, train
from freqkd.compat import read_config

TASK = "detection"
SHARE = 2.0
# What each variant changes of the shipped loss, paper with T = 2; "untrained" ones have random prompts, which mask nothing.
VARIANTS: dict[str, dict[str, Any]] = {
    "as shipped": dict(),
    "untrained": dict(),
    "no relation": dict(relation="none"),
    "untrained, no relation": dict(relation="none"),
    "T = 6": dict(num_prompts=6),
    "official, T = 6": dict(preset="official", num_prompts=6),
    "no low band": dict(band_weights=[0] + [1] * 9),
}


def train_prompts(variant: str, root: Path) -> Path:
    """Run the prompt stage of a variant, unless it was run before, and return its file."""
    folder = root / TASK / f"prompts_{variant}".replace(" ", "_")
    if not (folder / "prompts.pth").exists():
        config = read_config(f"{FOLDER[TASK]}/{PROMPTS[TASK]}.py")
        config.model.loss.update(VARIANTS[variant])
        config.work_dir = str(folder)
        train(config)
    return folder / "prompts.pth"


def measure(variant: str, seed: int, root: Path) -> dict[str, Any]:
    """Train one student and return what it scores on the held-out part."""
    config = run_config(TASK, "freekd_neck", SHARE, seed, root)
    term = config.model.terms.loss_freekd
    term.loss.update(VARIANTS[variant])
    term.prompts = "untrained" if variant.startswith("untrained") else str(train_prompts(variant, root))
    config.work_dir = str(root / TASK / f"{variant}_seed{seed}".replace(" ", "_"))
    return dict(task=TASK, term=variant, share=SHARE, seed=seed, **train_student(TASK, config))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--work-dir", default="work_dirs/mask_study")
    options = parser.parse_args(arguments)
    root, results = Path(options.work_dir), Path("benchmarks/results/mask_study.json")
    (root / TASK).mkdir(parents=True, exist_ok=True)
    keys = [(TASK, variant, SHARE, seed) for seed in options.seeds for variant in options.variants]
    complete_runs(results, keys, lambda task, variant, share, seed: measure(variant, seed, root))


if __name__ == "__main__":
    sys.exit(run_tool(main))
