"""The final students of a study on other images, such as a test split that somebody else holds."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from mmengine.config import Config

from freqkd.studies.answer import Record, markdown, read_study, summarise
from freqkd.studies.jobs import Job, Jobs
from freqkd.studies.plan import Plan
from freqkd.studies.run import make_config
from freqkd.studies.split import innermost
from freqkd.studies.study import POINTS
from freqkd.utils.files import write_whole

_VAL = re.compile(r"(?<![A-Za-z])val(?![A-Za-z])")  # in a path: "images/val/", "instances_val.json"


def redirect(config: Config, folder: str, split: str) -> None:
    """Point the reported split of a config to a folder of the same layout, whose paths say `split` where they say "val".

    Raises:
        ValueError: a file or folder is missing there.
    """
    dataset, judges = innermost(config.test_dataloader.dataset), config.test_evaluator
    root = str(dataset.get("data_root") or "")

    def renamed(path: str) -> str:
        place = os.path.relpath(path, root or ".")
        found = _VAL.sub(split, place)
        if place.split(os.sep)[0] == os.pardir:
            raise ValueError(
                f"--evaluate needs a study whose data lie below data_root, got {path} with data_root={root!r}; name it in "
                "the student's config, and the rest relative to it"
            )
        if not Path(folder, found).exists():
            raise ValueError(
                f"--evaluate must be a folder with {found}, as the study's own data have {place}, got {folder!r}; "
                "--split names another split"
            )
        return found

    if dataset.get("ann_file"):
        dataset.ann_file = renamed(os.path.join(root, dataset.ann_file))
    if prefix := dataset.get("data_prefix"):
        dataset.data_prefix = {
            key: renamed(os.path.join(root, path)) for key, path in prefix.items() if path is not None
        }
    for judge in judges if isinstance(judges, list) else [judges]:
        if judge.get("ann_file"):
            judge.ann_file = str(Path(folder, renamed(judge.ann_file)))
    dataset.data_root = folder


def _job(plan: Plan, name: str, model: Any, checkpoint: Path, folder: str, split: str) -> Job:
    if not checkpoint.exists():
        raise ValueError(
            f"{checkpoint} must be there: the students lie in the work dir of the study; finish the study with this --work-dir"
        )
    config = make_config(plan.base, POINTS, 0)
    redirect(config, folder, split)
    config.model = model
    return plan.job(name, config, "evaluate", f"{split}-{name}.json", 1.0, checkpoint=str(checkpoint))


def evaluate_students(plan: Plan, jobs: Jobs, folder: str, split: str = "test") -> Record:
    """Evaluate the teacher and the student of every final run on other images, and write `SPLIT/answer.json` and `.md`.

    Args:
        plan: of a finished study, whose work dir has the students.
        jobs: runs the evaluations.
        folder: of the images and their labels, laid out as the study's own.
        split: its name in the paths.

    Returns:
        The answer, as that of the study; its curves and times are those of the trainings.

    Raises:
        ValueError: images, labels or students are missing.
    """
    study, _ = read_study(plan.results)  # which checks them all
    runs = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(plan.results.glob("*_seed*.json"))}
    student = plan.study.student.model
    evaluations = [_job(plan, "teacher", plan.network, Path(plan.checkpoint), folder, split)]
    evaluations += [
        _job(plan, name, student, plan.work / "final" / name / "student.pth", folder, split) for name in runs
    ]
    for job in evaluations:
        job.result.unlink(missing_ok=True)  # of earlier images or students
    jobs.plan(evaluations)
    found = {job.name: {key: record[key] for key in ("metric", "by_class")} for job, record in jobs.run(evaluations)}
    study.pop("pilot", None)  # of the study's own split
    study = study | dict(metric_name=f"{study['metric_name']}, {split} split", teacher=found["teacher"])
    judged = [run | found[name] | dict(images=None, fidelity=None) for name, run in runs.items()]
    answer = summarise(study, judged)
    out = plan.results / split
    with write_whole(out / "answer.json") as numbers, write_whole(out / "answer.md") as report:
        numbers.write(f"{json.dumps(answer, indent=1, allow_nan=False)}\n".encode())
        report.write(markdown(answer, picture="").encode())
    return answer
