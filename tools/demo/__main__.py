"""Distil a real detector and a real segmenter on the shipped samples: teacher, student alone, students distilled.

Everything goes to work_dirs/demo. Interrupted, it picks up where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import MessageHub
from pictures import draw_masks, draw_predictions
from report import check_shown, print_report, write_json
from tasks import STAGES, TASKS, DemoError, Task, announce, say, steps_of

from freqkd.apis.arguments import run_tool
from freqkd.apis.export import count_parameters, export_student, is_distillation
from freqkd.apis.test import evaluate
from freqkd.apis.train import train
from freqkd.hooks.progress import SECONDS
from freqkd.utils.errors import EPILOG
from freqkd.utils.files import check_writable


def fingerprint(task: Task, stage: str, seed: int) -> str:
    """What a stage's result depends on: its config, the seed and the teacher's weights."""
    config = task.config(stage)
    teacher = Path(task.config("distilled").model.teacher.checkpoint)
    if not teacher.exists():
        raise DemoError(f"the shipped teacher {teacher} is missing: restore it with git, or train it: make teachers")
    digest = hashlib.sha256(f"seed {seed}\n{config.pretty_text}".encode() + teacher.read_bytes())
    if stage in ("distilled", "combined"):
        digest.update(task.config("prompts").pretty_text.encode())
    return digest.hexdigest()


def stage_config(task: Task, stage: str, folder: Path, seed: int) -> Config:
    """The stage's shipped config, writing to the demo's folder and resuming what is there."""
    config = task.config(stage)
    config.work_dir = str(folder / stage)
    config.resume, config.load_from = True, None
    config.randomness.seed = seed
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


def run_stage(task: Task, stage: str, folder: Path, seed: int) -> dict[str, Any]:
    """Train or evaluate one stage, its own chatter in a file, and return what was measured."""
    config = stage_config(task, stage, folder, seed)
    (folder / stage).mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with (
        open(folder / stage / "console.txt", "a") as out,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out),
    ):
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
            metric=final_metric(runner, task.metric) * task.scale,
            seconds=float(hub.runtime_info[SECONDS]),
            steps=steps_of(config),
            checkpoint=os.path.relpath(latest),
        )
        if stage == "prompts":
            result["params"] = sum(p.numel() for p in runner.model.parameters())
            result["masks"] = {when: hub.runtime_info[f"prompt_statistics_{when}"] for when in ("before", "after")}
            return result
        result["params"] = count_parameters(config)
        if stage in ("distilled", "combined"):
            result["terms"] = describe_terms(config, runner.model, hub)
        exported = export_student(config, latest, str(folder / stage / "student"))
        result["checkpoint"] = os.path.relpath(exported)
        result["config"] = os.path.relpath(exported.parent / "student_config.py")
        return result


def final_metric(runner: Any, metric: str) -> float:
    """The metric of the last validation; a run that was stopped just before it validates now."""
    if f"val/{metric}" in runner.message_hub.log_scalars:
        return float(runner.message_hub.get_scalar(f"val/{metric}").current())
    return float(runner.val()[metric])


def describe_terms(config: Config, model: Any, hub: MessageHub) -> dict[str, Any]:
    """Say of each term its loss, preset, prompts and mean ratio to the task's gradient over the training."""
    terms = {}
    for name, term in config.model.terms.items():
        ratios = hub.get_scalar(f"train/ratio/{name}").data[0]
        prompts = term.get("prompts")
        terms[name] = dict(
            loss=term.loss.type,
            preset=term.loss.get("preset"),
            prompt_hash=hashlib.sha256(Path(prompts).read_bytes()).hexdigest() if prompts else None,
            gradient_ratio=float(ratios.mean()) if len(ratios) else None,
            weight=float(model.terms[name].weight.value()),
        )
    return terms


def run_task(name: str, root: Path, seed: int) -> dict[str, Any]:
    """Run the stages of one task that are not done yet."""
    task, folder = TASKS[name], root / name
    results: dict[str, Any] = {}
    for stage in STAGES:
        mark, done = fingerprint(task, stage, seed), folder / f"{stage}.json"
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
            saved = dict(run_stage(task, stage, folder, seed), fingerprint=mark)
            write_json(saved, done)
        results[stage] = {key: value for key, value in saved.items() if key != "fingerprint"}
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG)
    parser.add_argument("--work-dir", default="work_dirs/demo", help="folder of everything the demo writes")
    parser.add_argument(
        "--seed", type=int, default=0, help="first weights and order of images; name another --work-dir too"
    )
    options = parser.parse_args(arguments)
    root = Path(options.work_dir)
    check_writable("work dir", root, "--work-dir")
    announce(root)
    start = time.monotonic()
    summary: dict[str, Any] = {}
    for name in TASKS:
        summary[name] = run_task(name, root, options.seed)
        with contextlib.redirect_stdout(io.StringIO()):  # the data sets' own chatter
            draw_masks(TASKS[name], summary[name], root / name)
            draw_predictions(name, TASKS[name], summary[name], root)
    write_json(summary, root / "summary.json")
    print_report(summary, root, time.monotonic() - start)
    for name in TASKS:
        check_shown(name, summary[name])


if __name__ == "__main__":
    sys.exit(run_tool(main))
