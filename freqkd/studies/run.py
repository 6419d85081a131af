"""One run of a study in a process of its own, which resumes where it was stopped: `python -m freqkd.studies.run CONFIG`."""

from __future__ import annotations

import argparse
import copy
import fcntl
import json
import math
import os
import resource
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from yapf.yapflib import yapf_api

from freqkd.apis.arguments import run_tool
from freqkd.apis.cache import cache_teacher
from freqkd.apis.export import export_student
from freqkd.apis.preflight.checkpoint import find_resumable
from freqkd.apis.train import build_runner, train
from freqkd.hooks.non_finite import NonFiniteError
from freqkd.hooks.progress import SECONDS
from freqkd.studies.evaluation import StudyHook
from freqkd.studies.fidelity import fidelity
from freqkd.studies.study import POINTS, Metric
from freqkd.utils.compat import read_config
from freqkd.utils.environment import cpu_name
from freqkd.utils.files import write_whole
from freqkd.utils.patches import replaced

RUN = "study_run"  # the key of a run's config that says what it is for
WARM_UP = 0.05  # of the steps
CHECKPOINTS = 10  # during a run
HEAD_FILE = "head.pth"  # of a band head stage
MADE_OF = "made_of"  # what a run depends on, by a name: a key of its result, and a file in its work dir
LOCK, CONFIG_FILE, CONSOLE = ".lock", "run.py", "console.txt"
OWN_FILES = (LOCK, CONFIG_FILE, CONSOLE)  # of every work dir


def make_config(base: Config, steps: int, seed: int, points: int = POINTS, lr: float = 1.0) -> Config:
    """Return the config of a training with the schedule and the data order that all runs of a study share.

    The learning rate rises linearly over 5 % of the steps and falls as a cosine to 0. No worker processes load data, so that
    a resumed run equals one that was not stopped.

    Args:
        base: config of a network, its data and its optimizer, after `hold_out`.
        steps: of the training.
        seed: of the first weights and the order of the images.
        points: validations, at equal distances, the last one at the end.
        lr: factor on the config's learning rate.
    """
    config, warm = copy.deepcopy(base), max(2, round(WARM_UP * steps))
    config.train_cfg = dict(type="IterBasedTrainLoop", max_iters=steps, val_interval=math.ceil(steps / points))
    config.param_scheduler = [
        dict(type="LinearLR", start_factor=1 / warm, by_epoch=False, begin=0, end=warm),
        dict(type="CosineAnnealingLR", eta_min=0.0, by_epoch=False, begin=warm, end=steps, T_max=steps - warm),
    ]
    if lr != 1:
        config.optim_wrapper.optimizer.lr *= lr
    config.train_dataloader.sampler = dict(type="InfiniteSampler", shuffle=True)
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        config[name].update(num_workers=0, persistent_workers=False)
        config[name].pop("prefetch_factor", None)
    interval = math.ceil(steps / CHECKPOINTS)
    config.default_hooks = dict(
        config.get("default_hooks") or {},
        checkpoint=dict(type="freqkd.CheckpointHook", by_epoch=False, interval=interval, max_keep_ckpts=1),
        logger=dict(type="LoggerHook", interval=10, log_metric_by_epoch=False),
    )
    config.log_processor = dict(type="LogProcessor", window_size=20, by_epoch=False)
    config.randomness = dict(config.get("randomness") or {}, seed=seed)
    return config


def set_purpose(config: Config, kind: str, work_dir: Path, result: Path, metric: Metric, **options: Any) -> Config:
    """Say in a config what its run is for, and watch its evaluations.

    Args:
        config: of the run; changed in place.
        kind: a name of `KINDS`.
        work_dir: of the run.
        result: the JSON file that the run writes at its end.
        metric: of the study.
        options: `record`, what the result says beside what was measured; `predictions`, file of the teacher's on the reported
            split; `report`, whether a final run reads that split; `checkpoint`, to evaluate; `keep`, the name under
            which a first stage keeps its last checkpoint; `made_of`, a name for all that the run depends on.
    """
    config[RUN] = dict(kind=kind, result=str(result.resolve()), load_from=config.get("load_from"), **options)
    config.work_dir, config.resume, config.load_from, config.launcher = str(work_dir), True, None, "none"
    hooks = [*(config.get("custom_hooks") or []), dict(type="freqkd.ProgressHook", label=f"{kind} {work_dir.name}")]
    if kind not in ("stage", "fill"):
        hooks.append(dict(type="freqkd.StudyHook", metric=vars(metric), curve=str(work_dir / "curve.json")))
    config.custom_hooks = hooks
    return config


def write_run(config: Config, path: Path) -> None:
    """Write a run's config, one value a line: MMEngine would format it, which takes a second."""
    with write_whole(path) as file:
        file.write("".join(f"{key} = {value!r}\n" for key, value in config.to_dict().items()).encode())


def write_json(record: Mapping[str, Any], path: str | Path) -> None:
    """Write a record, whole or not at all."""
    with write_whole(path) as file:
        file.write(f"{json.dumps(record, indent=1, allow_nan=False)}\n".encode())


def device_name() -> str:
    """Return the name of the GPU, or of the processor where there is none."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()


def _train(config: Config, run: Mapping[str, Any]) -> dict[str, Any]:
    kind = run["kind"]
    if run.get("load_from") and find_resumable(config) is None:
        config.load_from, config.resume = run["load_from"], False
    try:
        runner = train(config)
    except NonFiniteError:
        if kind != "trial":
            raise
        return dict(run["record"], metric=None)
    if kind == "stage":
        if run.get("keep"):
            shutil.copyfile(_latest(config), Path(config.work_dir, run["keep"]))
        return {}
    hook, seconds = _hook(runner), float(runner.message_hub.runtime_info[SECONDS])
    if kind == "calibrate":
        times = runner.message_hub.get_scalar("train/time").data[0]
        pace = float(statistics.median(times[len(times) // 2 :]))
        return dict(seconds_per_step=pace, train_seconds=seconds, validation_seconds=hook.seconds)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10
    record = dict(
        run["record"],
        metric=hook.points[runner.max_iters],
        curve=sorted(hook.points.items()),
        seconds_per_step=seconds / runner.max_iters,
        train_seconds=seconds,
        device=device_name(),
        peak_memory_mb=(torch.cuda.max_memory_allocated() if torch.cuda.is_available() else used) / 2**20,
    )
    if kind == "trial":
        return record
    export_student(config, _latest(config), config.work_dir, half=kind == "teacher")
    if kind == "teacher":
        return record
    return record | (_report(runner, run) if run["report"] else dict(by_class=None, fidelity=None, images=None))


def _report(runner: Any, run: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluate the reported split, and compare predictions with the teacher's."""
    runner.test()
    hook, arrays = _hook(runner), Path(run["result"]).with_suffix(".npz")
    with np.load(run["predictions"]) as kept:
        teachers = [kept[f"arr_{place}"] for place in range(len(hook.predictions))]
    if hook.images:
        with write_whole(arrays) as file:
            np.savez_compressed(file, **hook.images)
    images = arrays.name if hook.images else None
    return dict(
        metric=hook.value, by_class=hook.by_class(), fidelity=fidelity(hook.predictions, teachers), images=images
    )


def _evaluate(config: Config, run: Mapping[str, Any]) -> dict[str, Any]:
    config.load_from, config.resume = run["checkpoint"], False
    runner = build_runner(config)
    runner.test()
    if run.get("predictions"):
        with write_whole(run["predictions"]) as file:
            np.savez_compressed(file, *_hook(runner).predictions)
    return dict(metric=_hook(runner).value, by_class=_hook(runner).by_class())


def _fill(config: Config, run: Mapping[str, Any]) -> dict[str, Any]:
    start = time.monotonic()
    return dict(views=cache_teacher(config), seconds=time.monotonic() - start)


KINDS = dict.fromkeys(("calibrate", "trial", "final", "teacher", "stage"), _train) | dict(
    evaluate=_evaluate, fill=_fill
)


def _latest(config: Config) -> str:
    return Path(config.work_dir, "last_checkpoint").read_text().strip()


def _hook(runner: Any) -> StudyHook:
    return next(hook for hook in runner.hooks if isinstance(hook, StudyHook))


def is_finished(result: Path, made_of: str | None) -> bool:
    """Say whether a run has its result, made of the same; those of trials and final runs have been compared before."""
    if not result.exists():
        return False
    record = json.loads(result.read_text("utf-8"))
    return "method" in record or record.get(MADE_OF) == made_of


def _remove_other(folder: Path, made_of: str | None) -> None:
    """Empty the work dir of a run that is made of something else, such as one of another loss of the same name."""
    note = folder / MADE_OF
    if made_of is None or (note.exists() and note.read_text() == made_of):
        return
    for entry in folder.iterdir():
        if entry.name not in OWN_FILES:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    with write_whole(note) as file:
        file.write(made_of.encode())


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what a config of `set_purpose` says, unless its result is there."""
    parser = argparse.ArgumentParser(prog="python -m freqkd.studies.run", description=__doc__)
    parser.add_argument("config", help="the run.py that a comparison has written")
    parser.add_argument("--parent", type=int, help="id of a process with which this one ends")
    options = parser.parse_args(arguments)
    if options.parent:
        threading.Thread(target=_end_with, args=(options.parent,), daemon=True).start()
    config = read_config(options.config)
    run = config.pop(RUN).to_dict()
    # The Runner formats its config six times, which takes as long as a calibration.
    plain = replaced(yapf_api, "FormatCode", lambda text, **options: (text, True))
    with open(Path(config.work_dir, LOCK), "w") as file, plain:
        fcntl.flock(file, fcntl.LOCK_EX)  # another process may be in this folder: wait for it
        made_of = run.get(MADE_OF)
        if not is_finished(Path(run["result"]), made_of):
            _remove_other(Path(config.work_dir), made_of)
            record = KINDS[run["kind"]](config, run)
            write_json(record if "method" in record else record | {MADE_OF: made_of}, run["result"])


if __name__ == "__main__":
    sys.exit(run_tool(main))
