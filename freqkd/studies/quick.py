"""Quick comparison of a distillation's config with the student alone, MSE and details."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from mmengine.config import Config

from freqkd.apis.export import is_distillation, student_config, without_views
from freqkd.studies.split import Selection, training_images
from freqkd.studies.statistics import MSE, STUDENT, Difference, verdicts
from freqkd.studies.study import POINTS, Budget, Method, Metric, Study
from freqkd.utils.compat import read_config

OWN = "config"  # the method that is the user's
SHARE = 10  # of the config's length: a tenth
SEEDS = 3
MOST_IMAGES = 1000  # of the selection part, which each run reads five times
RATIO = 2.0  # of MSE and details where the config's weight is no ratio
PLACE = ("type", "student_tap", "teacher_tap", "student_levels", "teacher_levels", "align")
METRICS = {"CocoMetric": Metric("coco/bbox_mAP", "box AP"), "IoUMetric": Metric("mIoU", "mIoU", 100.0)}
LOSSES = {MSE: dict(type="freqkd.MSELoss"), "details": dict(type="freqkd.FreeKDLoss", preset="details")}


def quick_study(path: str, metric: str = "", lr: Sequence[float] = (), **changes: Any) -> Study:
    """Return the study of a distillation's config, on a tenth of its length and with its own weights.

    MSE and details have the taps, levels and align of the config's first term without an adapter, and its weight where that is
    a ratio. All methods get the seconds that the config takes.

    Args:
        path: the config.
        metric: its key; empty: COCO's box AP or the mean IoU.
        lr: factors on the config's learning rate, among which every method and the student alone choose; none: as given.
        changes: `seeds`, `budget` and `views` in place of 3, a tenth, and those of the config's cached teacher.

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
    student, model = _student(config), config.model.to_dict()
    images = len(training_images(student)[0])
    terms, teacher = model["terms"], dict(model["teacher"])
    cache = teacher.pop("cache", None) or {}
    name = next((name for name, term in terms.items() if not term.get("adapter")), next(iter(terms)))
    term = {key: value for key, value in terms[name].items() if key in PLACE}
    weight = terms[name].get("weight")
    term["weight"] = weight if isinstance(weight, Mapping) else dict(ratio=RATIO, iters=50)
    steps = config.train_cfg.get("max_iters")
    if not steps:
        steps = config.train_cfg.max_epochs * -(-images // config.train_dataloader.batch_size)
    weighted = {key: {"weight": 1.0, **part} for key, part in terms.items()}
    options = {key: value for key, value in model.items() if key not in ("type", "student", "teacher", "terms")}
    own = Method(weighted, options=options, data=_condensation(config))
    given = {key: value for key, value in changes.items() if value is not None}
    if "budget" in given:
        given["budget"] = Budget.read(given["budget"])
    mark = hashlib.sha256(config.pretty_text.encode()).hexdigest()[:8]
    parts = dict(
        name=f"quick-{re.sub('[^A-Za-z0-9.+-]', '-', Path(path).stem)}-{mark}{'-lr' * bool(lr)}",
        student=student,
        teacher=teacher,
        metric=Metric(metric) if metric else METRICS[str(kind)],
        methods={
            STUDENT: Method(),
            OWN: own,
            **{key: Method({name: {**term, "loss": loss}}) for key, loss in LOSSES.items()},
        },
        budget=Budget(max(POINTS, steps // SHARE), like=OWN),
        selection=Selection(min(Selection().fraction, MOST_IMAGES / images)),
        search={part: [dict(lr=factor) for factor in lr] for part in ("methods", "student")} if lr else {},
        seeds=SEEDS,
        views=cache.get("views", 0),
    )
    return Study(**(parts | given))


def _student(config: Config) -> Config:
    """Return the config of the student alone, which may read its images by this package, on the same first weights.

    Raises:
        ValueError: the student has no loss of its own.
    """
    if config.model.get("own_losses") is False:
        raise ValueError(
            "--quick compares with the student alone, which model.own_losses=False leaves without a loss; compare the "
            "trainings that start from its weights instead, in a study"
        )
    student = student_config(config)
    for key in (
        "train_dataloader",
        "val_dataloader",
        "test_dataloader",
        "train_cfg",
        "optim_wrapper",
        "param_scheduler",
    ):
        if key in config and key not in student:
            student[key] = copy.deepcopy(config[key])
    student.train_dataloader.dataset = without_views(student.train_dataloader.dataset)
    if config.get("load_from"):
        student.load_from = config.load_from
    return student


def _condensation(config: Config) -> dict[str, Any]:
    """Return how a config draws its training images where it condenses them."""
    sampler = config.train_dataloader.get("sampler") or {}
    if not str(sampler.get("type")).startswith("freqkd."):
        return {}
    hooks = [dict(hook) for hook in config.get("custom_hooks") or [] if hook.get("type") == "freqkd.CondensationHook"]
    return dict(sampler=dict(sampler), hooks=hooks)


def verdict(path: str, answer: Mapping[str, Any], length: str) -> str:
    """Return the answer at one length in a sentence: whether the config helps, and by how much.

    One question was asked, so that its verdict is not corrected for MSE and details, which are there to compare with.
    """
    at: Mapping[str, Any] = next((one for one in answer["lengths"] if one["length"] == length), dict(rows=[]))
    row = next((row for row in at["rows"] if row["method"] == OWN), None)
    if row is None:
        return f"{path}: cannot tell yet, because it has no finished run of {length}; start the comparison again"
    found = row["to_student"]
    if not found:
        return f"{path}: cannot tell, because the student alone has no run with its seed"
    interval = "" if found["low"] is None else f", 95 % interval {found['low']:+.4f} to {found['high']:+.4f}"
    own = verdicts({OWN: Difference(**{f.name: found[f.name] for f in fields(Difference)})}, at["worthwhile"])[OWN]
    alone = next(row for row in at["rows"] if row["method"] == STUDENT)
    rates = [float(one["options"][0].get("lr", 0)) for one in (row, alone)]
    chosen = "all at the config's learning rate (--lr lets each choose)"
    if all(rates):
        chosen = f"at {rates[0]:g} times the config's learning rate, the student alone at {rates[1]:g} times"
    return (
        f"{path} {own}: {answer['metric_name']} {found['mean']:+.4f} against the student alone{interval}, "
        f"{found['seeds']} seed{'s' * (found['seeds'] > 1)}, {chosen}"
    )
