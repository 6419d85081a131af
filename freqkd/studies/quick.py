"""Quick comparison of a distillation's config with the student alone, MSE and details."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from freqkd.apis.export import is_distillation, student_config
from freqkd.studies.split import training_images
from freqkd.studies.statistics import MSE, STUDENT
from freqkd.studies.study import POINTS, Budget, Method, Metric, Study
from freqkd.utils.compat import read_config

OWN = "config"  # the method that is the user's
SHARE = 10  # of the config's length: a tenth
RATIO = 2.0  # of MSE and details where the config's weight is no ratio
PLACE = ("type", "student_tap", "teacher_tap", "student_levels", "teacher_levels", "align")
METRICS = {"CocoMetric": Metric("coco/bbox_mAP", "box AP"), "IoUMetric": Metric("mIoU", "mIoU", 100.0)}
LOSSES = {MSE: dict(type="freqkd.MSELoss"), "details": dict(type="freqkd.FreeKDLoss", preset="details")}


def quick_study(path: str, metric: str = "", **changes: Any) -> Study:
    """Return the study of a distillation's config, on a tenth of its length and with its own weights.

    MSE and details have the taps, levels and align of the config's first term without an adapter, and its weight where that is
    a ratio. All methods get the seconds that the config takes.

    Args:
        path: the config.
        metric: its key; empty: COCO's box AP or the mean IoU.
        changes: `seeds`, `budget` and `views` in place of 2, a tenth, and those of the config's cached teacher.

    Raises:
        ValueError: the config is not a distillation's, or the metric is not known.
    """
    config = read_config(path)
    if not is_distillation(config):
        raise ValueError(
            f"--quick takes the config of a distillation, model=dict(type='freqkd.Distiller', ...), got {path}"
        )
    evaluator = config.get("test_evaluator") or config.get("val_evaluator") or {}
    kind = (evaluator[0] if isinstance(evaluator, (list, tuple)) else evaluator).get("type")
    if not metric and kind not in METRICS:
        raise ValueError(
            f"--metric must name the metric to compare where the evaluator is not one of {', '.join(METRICS)}"
        )
    student, model = student_config(config), config.model.to_dict()
    terms, teacher = model["terms"], dict(model["teacher"])
    cache = teacher.pop("cache", None) or {}
    name = next((name for name, term in terms.items() if not term.get("adapter")), next(iter(terms)))
    term = {key: value for key, value in terms[name].items() if key in PLACE}
    weight = terms[name].get("weight")
    term["weight"] = weight if isinstance(weight, Mapping) else dict(ratio=RATIO, iters=50)
    steps = config.train_cfg.get("max_iters")
    if not steps:
        images = len(training_images(student)[0])
        steps = config.train_cfg.max_epochs * -(-images // config.train_dataloader.batch_size)
    weighted = {key: {"weight": 1.0, **part} for key, part in terms.items()}
    own = Method(weighted, options={key: model[key] for key in ("inherit", "task_schedule") if key in model})
    given = {key: value for key, value in changes.items() if value is not None}
    if "budget" in given:
        given["budget"] = Budget.read(given["budget"])
    mark = hashlib.sha256(config.pretty_text.encode()).hexdigest()[:8]
    options = dict(
        name=f"quick-{re.sub('[^A-Za-z0-9.+-]', '-', Path(path).stem)}-{mark}",
        student=student,
        teacher=teacher,
        metric=Metric(metric) if metric else METRICS[str(kind)],
        methods={
            STUDENT: Method(),
            OWN: own,
            **{key: Method({name: {**term, "loss": loss}}) for key, loss in LOSSES.items()},
        },
        budget=Budget(max(POINTS, steps // SHARE), like=OWN),
        seeds=2,
        views=cache.get("views", 0),
    )
    return Study(**(options | given))


def verdict(path: str, answer: Mapping[str, Any]) -> str:
    """Return the answer in a sentence: whether the config helps, and by how much."""
    row = next(row for row in answer["lengths"][-1]["rows"] if row["method"] == OWN)
    found = row["to_student"]
    if not found:
        return f"{path}: cannot tell, because the student alone has no run with its seed"
    interval = "" if found["low"] is None else f", 95 % interval {found['low']:+.4f} to {found['high']:+.4f}"
    return (
        f"{path} {found['words']}: {answer['metric_name']} {found['mean']:+.4f} against the student alone{interval}, "
        f"{found['seeds']} seed{'s' * (found['seeds'] > 1)}"
    )
