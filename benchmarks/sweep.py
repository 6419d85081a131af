"""Train the students of a study and report what they score: `python benchmarks/sweep.py STUDY TASK`.

The studies are those of `studies.py`. Every run is a line of `benchmarks/results/study_STUDY.json`; runs found there are not
repeated, and a run that was stopped is resumed. Students of a variant share the prompts and the teacher's cache, so the first
one pays for them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measure import RESULTS, ROOT, load
from mmengine.config import Config
from report_students import study_table
from shipped import PAIR, prompt_stage, sample_config, write_untrained

from freqkd.apis.arguments import run_tool
from freqkd.apis.train import train
from freqkd.hooks.progress import SECONDS
from studies import STUDIES, Variant

METRIC = {"detection": "coco/bbox_mAP", "segmentation": "mIoU"}


def hold_out_cells(config: Config, folder: Path) -> None:
    """Judge on 45 of the 205 training images of the blood cells, drawn with seed 0; train on the other 160."""
    root = Path(config.train_dataloader.dataset.data_root)
    content = json.loads((root / "annotations/instances_train.json").read_text())
    held = set(random.Random(0).sample([image["id"] for image in content["images"]], 45))
    for name, keep in (("rest", False), ("held", True)):
        images = [image for image in content["images"] if (image["id"] in held) == keep]
        boxes = [box for box in content["annotations"] if (box["image_id"] in held) == keep]
        (folder / f"{name}.json").write_text(json.dumps(dict(content, images=images, annotations=boxes)))
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


HOLD_OUT = {"detection": hold_out_cells, "segmentation": hold_out_roads}


def prompt_file(shipped: str, variant: Variant, folder: Path, seed: int | None) -> str:
    """Return the prompt file of a variant, after training it if it does not exist; seed None: as shipped."""
    stage = prompt_stage(shipped)
    changes = {**(variant.prompts or {}), **({} if seed is None else {"seed": seed})}
    name = "untrained" if variant.prompts is None else "-".join(["prompts", *(f"{k}-{v}" for k, v in changes.items())])
    path = folder / name / "prompts.pth"
    if not path.exists() and variant.prompts is None:
        write_untrained(stage, path)
    elif not path.exists():
        stage.randomness.seed = changes.pop("seed", stage.randomness.seed)
        stage.model.prompts.update(changes)
        stage.work_dir = str(path.parent)
        train(stage)
    return str(path)


def run_config(study: str, task: str, name: str, ratio: float | None, seed: int, folder: Path) -> Config:
    """Return the config of one student; prompt files are made where they are missing."""
    chosen, variant = STUDIES[study], STUDIES[study].variants[task][name]
    config = sample_config(task, variant.method)
    terms = config.model.get("terms", {})
    if variant.beside:
        terms.loss_logit = sample_config(task, variant.beside).model.terms.loss_logit
    if ratio is not None:
        terms[variant.term].weight.ratio = ratio
    if "type" in variant.loss:
        terms[variant.term].loss, terms[variant.term].prompts = variant.loss, None
    elif variant.loss:
        terms[variant.term].loss.update(variant.loss)
    for term in terms.values():
        if term.get("prompts"):
            term.prompts = prompt_file(term.prompts, variant, folder, seed if chosen.prompt_seeds else None)
    if chosen.held_out:
        HOLD_OUT[task](config, folder)
    if variant.views:
        loader = config.train_dataloader
        loader.dataset = dict(type="freqkd.FixedViews", views=variant.views, dataset=loader.dataset)
    if variant.views and terms:
        taps = "-".join(sorted({term.get("student_tap", "neck") for term in terms.values()}))
        config.model.teacher.cache = dict(dir=str(folder / f"cache{variant.views}_{taps}"), views=variant.views)
    run = f"{name} {ratio or ''} seed {seed}"
    config.work_dir = str(folder / "".join(letter if letter.isalnum() else "_" for letter in run))
    config.randomness.seed, config.resume = seed, True
    config.experiment_name = f"{study}_{task}_{seed}_{time.time_ns()}"
    config.custom_hooks = [*(config.get("custom_hooks") or []), dict(type="freqkd.ProgressHook", label=run)]
    return config


def measure(config: Config, task: str, term: str) -> dict[str, float | None]:
    """Train one student: its metric, the term's mean ratio to the task's gradient, seconds, and a late step's."""
    hub = train(config).message_hub
    ratios = hub.log_scalars.get(f"train/ratio/{term}")
    steps = hub.get_scalar("train/time").data[0]
    return dict(
        metric=float(hub.get_scalar(f"val/{METRIC[task]}").current()),
        mean_ratio=None if ratios is None else float(ratios.data[0].mean()),
        seconds=float(hub.runtime_info[SECONDS]),
        late_step=float(statistics.median(steps[-len(steps) // 3 :])),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", choices=list(STUDIES))
    parser.add_argument("task", choices=sorted(PAIR))
    parser.add_argument("--variants", nargs="+", metavar="NAME", help="names in studies.py; default: all of the study")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: those of the study")
    parser.add_argument("--work-dir", default="work_dirs/studies", help="folder of prompts, caches and students")
    options = parser.parse_args(arguments)
    os.chdir(ROOT)
    study, task, chosen = options.study, options.task, STUDIES[options.study]
    folder = Path(options.work_dir, study, task)
    folder.mkdir(parents=True, exist_ok=True)
    variants = chosen.variants[task]
    for seed in options.seeds or chosen.seeds:
        for name in options.variants or variants:
            for ratio in variants[name].ratios:
                key = dict(task=task, variant=name, ratio=ratio, seed=seed)
                if not any(find_key(run) == key for run in load(f"study_{study}")):
                    found = measure(run_config(study, task, name, ratio, seed, folder), task, variants[name].term)
                    runs = [*load(f"study_{study}"), {**key, **found}]  # of now: another task may have added some
                    text = "[\n" + ",\n".join(map(json.dumps, runs)) + "\n]\n"
                    (RESULTS / f"study_{study}.json").write_text(text)
    print(study_table(study, "ratio asked for", "mean ratio"))


def find_key(run: dict[str, Any]) -> dict[str, Any]:
    """Return what tells a run from the others of its study."""
    return dict(task=run["task"], variant=run["variant"], ratio=run.get("ratio") or None, seed=run["seed"])


if __name__ == "__main__":
    sys.exit(run_tool(main))
