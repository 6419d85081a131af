"""Distil a real detector and a real segmenter on the shipped samples: teacher, student alone, student distilled.

Everything goes to work_dirs/demo. Interrupted, it picks up where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub

from demo_pictures import draw_masks, draw_predictions
from freqkd.cli import evaluate, run_tool, train
from freqkd.compat import read_config
from freqkd.export import count_parameters, export_student, is_distillation
from freqkd.hooks.progress import SECONDS
from freqkd.preflight import check_work_dir

STAGES = ("teacher", "prompts", "alone", "distilled")
# Seconds per step on two quiet cores, for the announcement alone; every stage is then measured.
PACE = {"detection": dict(prompts=0.40, alone=0.24, distilled=0.42), "segmentation": dict(prompts=0.25, alone=0.22, distilled=0.36)}
MIN_DEVIATION = 0.01
MIN_SHARE = 0.1


@dataclass(frozen=True)
class Task:
    """One half of the demo: a config per stage, and the metric."""

    teacher: str
    prompts: str
    alone: str
    distilled: str
    metric: str
    metric_name: str
    scale: float
    pictures: tuple[int, ...]

    def config(self, stage: str) -> Config:
        return read_config(getattr(self, stage))


TASKS = {
    "detection": Task(
        teacher="configs/blood_cells/retinanet_r18w48_b8-36e_blood-cells.py",
        prompts="configs/blood_cells/prompts_neck_retinanet-r18w48_b8-4e_blood-cells.py",
        alone="configs/blood_cells/retinanet_r18w16_b8-12e_blood-cells.py",
        distilled="configs/blood_cells/freekd_neck_retinanet-r18w48_retinanet-r18w16_b8-12e_blood-cells.py",
        metric="coco/bbox_mAP",
        metric_name="box AP",
        scale=1.0,
        pictures=(3, 20),
    ),
    "segmentation": Task(
        teacher="configs/road_scenes/semantic-fpn_r18w48_b8-1200i_road-scenes.py",
        prompts="configs/road_scenes/prompts_neck_semantic-fpn-r18w48_b8-80i_road-scenes.py",
        alone="configs/road_scenes/semantic-fpn_r18w16_b8-300i_road-scenes.py",
        distilled="configs/road_scenes/freekd_neck_semantic-fpn-r18w48_semantic-fpn-r18w16_b8-300i_road-scenes.py",
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
    # Adam keeps two more numbers per weight, and the students come in two versions each.
    students = sum(count_parameters(task.config("alone")) for task in TASKS.values())
    megabytes = 2 * students * 3 * 4 / 1e6 + 10
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    say(
        f"freqkd demo: two tasks, {steps} training steps, about {seconds / 60:.0f} minutes on two quiet cores "
        f"(here: {device}), {megabytes:.0f} MB in {root}. Interrupt it when you like: it goes on from there."
    )


def fingerprint(task: Task, stage: str) -> str:
    """What a stage's result depends on: its config and the teacher's weights."""
    config = task.config(stage)
    teacher = Path(task.config("distilled").model.teacher.checkpoint)
    if not teacher.exists():
        raise DemoError(f"the shipped teacher {teacher} is missing: restore it with git, or train it: make teachers")
    digest = hashlib.sha256(config.pretty_text.encode() + teacher.read_bytes())
    if stage == "distilled":
        digest.update(task.config("prompts").pretty_text.encode())
    return digest.hexdigest()


def stage_config(task: Task, stage: str, folder: Path) -> Config:
    """The stage's shipped config, writing to the demo's folder and resuming what is there."""
    config = task.config(stage)
    config.work_dir = str(folder / stage)
    config.resume, config.load_from = True, None
    config.experiment_name = f"demo_{stage}_{time.time_ns()}"
    hooks = [*(config.get("custom_hooks") or []), dict(type="freqkd.ProgressHook", label=stage)]
    if stage == "prompts":
        hooks.append(dict(type="freqkd.PromptStatisticsHook"))
    config.custom_hooks = hooks
    if is_distillation(config):
        for term in config.model.terms.values():
            if term.get("prompts"):
                term.prompts = str(folder / "prompts" / "prompts.pth")
    return config


def run_stage(task: Task, stage: str, folder: Path) -> dict[str, Any]:
    """Train or evaluate one stage, its own chatter in a file, and return what was measured."""
    config = stage_config(task, stage, folder)
    (folder / stage).mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with open(folder / stage / "console.txt", "a") as out, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        if stage == "teacher":
            checkpoint = str(task.config("distilled").model.teacher.checkpoint)
            metrics = evaluate(config, checkpoint, config.work_dir)
            return dict(
                params=count_parameters(config),
                metric=metrics[task.metric] * task.scale,
                seconds=None,
                evaluation_seconds=time.monotonic() - start,
                checkpoint=checkpoint,
            )
        runner = train(config)
        hub: MessageHub = runner.message_hub
        latest = Path(config.work_dir, "last_checkpoint").read_text().strip()
        result = dict(
            metric=float(hub.get_scalar(f"val/{task.metric}").current()) * task.scale,
            seconds=float(hub.runtime_info[SECONDS]),
            steps=steps_of(config),
            checkpoint=os.path.relpath(latest),
        )
        if stage == "prompts":
            result["params"] = sum(p.numel() for p in runner.model.parameters())
            result["masks"] = {when: hub.runtime_info[f"prompt_statistics_{when}"] for when in ("before", "after")}
            return result
        result["params"] = count_parameters(config)
        if stage == "distilled":
            result["terms"] = describe_terms(config, runner.model, hub)
        exported = export_student(config, latest, str(folder / stage / "student"))
        result["checkpoint"] = os.path.relpath(exported)
        result["config"] = os.path.relpath(exported.parent / "student_config.py")
        return result


def describe_terms(config: Config, model: Any, hub: MessageHub) -> dict[str, Any]:
    """Say of each term its loss, preset, prompts and mean share of the task's gradient over the training."""
    terms = {}
    for name, term in config.model.terms.items():
        shares = hub.get_scalar(f"train/share/{name}").data[0]
        prompts = term.get("prompts")
        terms[name] = dict(
            loss=term.loss.type,
            preset=term.loss.get("preset"),
            prompt_hash=hashlib.sha256(Path(prompts).read_bytes()).hexdigest() if prompts else None,
            gradient_share=float(shares.mean()) if len(shares) else None,
            weight=float(model.terms[name].weight.value()),
        )
    return terms


def run_task(name: str, root: Path) -> dict[str, Any]:
    """Run the stages of one task that are not done yet."""
    task, folder = TASKS[name], root / name
    results: dict[str, Any] = {}
    for stage in STAGES:
        mark, done = fingerprint(task, stage), folder / f"{stage}.json"
        saved = json.loads(done.read_text()) if done.exists() else {}
        if saved.get("fingerprint") == mark:
            say(f"  {name}, {stage}: done before")
        else:
            started = folder / stage / "fingerprint"
            if started.exists() and started.read_text() != mark:
                shutil.rmtree(folder / stage)  # made with another config or teacher: not to be resumed
            (folder / stage).mkdir(parents=True, exist_ok=True)
            started.write_text(mark)
            say(f"  {name}, {stage}")
            saved = dict(run_stage(task, stage, folder), fingerprint=mark)
            write_json(saved, done)
        results[stage] = {key: value for key, value in saved.items() if key != "fingerprint"}
    return results


def write_json(value: Any, path: Path) -> None:
    """Write strict json (no NaN), whole or not at all."""
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
    os.replace(draft, path)


def check_shown(name: str, results: dict[str, Any]) -> None:
    """Raise DemoError where the prompts learnt nothing or FreeKD hardly counted."""
    before, after = results["prompts"]["masks"]["before"], results["prompts"]["masks"]["after"]
    if after["overlap"] >= before["overlap"]:
        raise DemoError(f"{name}: the overlap of the masks did not fall ({before['overlap']:.3f} to {after['overlap']:.3f})")
    if after["deviation"] < MIN_DEVIATION:
        raise DemoError(f"{name}: the masks stayed flat (deviation over space {after['deviation']:.4f})")
    share = results["distilled"]["terms"]["loss_freekd"]["gradient_share"]
    if share is None or share < MIN_SHARE:
        raise DemoError(f"{name}: FreeKD's share of the gradient is {share}, below {MIN_SHARE}: this shows another method")


def table(summary: dict[str, Any]) -> str:
    """The comparison as text."""
    rows = []
    for name, task in TASKS.items():
        found = summary[name]
        labels = dict(teacher="teacher", prompts="teacher, masked", alone="student alone", distilled="student, FreeKD")
        for stage, label in labels.items():
            result = found[stage]
            time_spent = "shipped" if result["seconds"] is None else f"{result['seconds']:.0f} s"
            params = "" if stage == "prompts" else f"{result['params'] / 1e6:.2f} M"
            rows.append((name if stage == "teacher" else "", label, params, f"{result['metric']:.3f} {task.metric_name}", time_spent))
    head = ("task", "network", "params", "val metric", "training")
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in [head, *rows]]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", default="work_dirs/demo", help="folder of everything the demo writes")
    options = parser.parse_args(arguments)
    root = Path(options.work_dir)
    check_work_dir(Config(dict(work_dir=str(root))))
    announce(root)
    start = time.monotonic()
    summary: dict[str, Any] = {}
    for name in TASKS:
        summary[name] = run_task(name, root)
        draw_masks(TASKS[name], summary[name], root / name)
        draw_predictions(name, TASKS[name], summary[name], root)
    write_json(summary, root / "summary.json")
    say()
    say(table(summary))
    say(
        "\nOne seed; equal steps, equal order of images, equal first weights; equal steps are not equal time: see the last "
        "column.\nSeeds differ by about 0.02, so a smaller difference says nothing."
    )
    for name in TASKS:
        masks = summary[name]["prompts"]["masks"]
        share = summary[name]["distilled"]["terms"]["loss_freekd"]["gradient_share"]
        say(
            f"{name}: overlap of the masks {masks['before']['overlap']:.3f} -> {masks['after']['overlap']:.3f}, deviation over "
            f"space {masks['before']['deviation']:.3f} -> {masks['after']['deviation']:.3f}; FreeKD's mean share of the task's "
            f"gradient {share:.2f}"
        )
        for stage in ("alone", "distilled"):
            found = summary[name][stage]
            say(f"  {stage}: python tools/test.py {found['config']} {found['checkpoint']}")
    pictures = ", ".join(sorted(str(path) for path in root.glob("*.png")))
    say(f"Pictures: {pictures}\nNumbers: {root / 'summary.json'} ({(time.monotonic() - start) / 60:.1f} minutes this time)")
    for name in TASKS:
        check_shown(name, summary[name])


if __name__ == "__main__":
    sys.exit(run_tool(main))
