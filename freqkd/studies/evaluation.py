"""What the evaluations of a run found: the metric without rounding, matches on every image, predictions."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook

from freqkd.registry import HOOKS
from freqkd.studies.fidelity import Prediction, predictions
from freqkd.studies.statistics import by_class
from freqkd.utils.files import write_whole
from freqkd.utils.patches import replaced

COUNTED = 100  # detections of an image and a class, those with the highest scores, in COCO's AP


@HOOKS.register_module()
class StudyHook(Hook):
    """Keep the metric of every validation in a file, and what the last evaluation found on each image.

    Args:
        metric: the options of `Metric`.
        curve: the file, `[[step, metric], ...]`.

    Raises:
        ValueError: in an evaluation: there is no such metric, or it is not finite.
    """

    priority = "LOWEST"  # after the hook of the checkpoints, which keeps validations from changing the random numbers

    def __init__(self, metric: Mapping[str, Any], curve: str) -> None:
        self.metric, self.file = metric, Path(curve)
        self.points: dict[int, float] = {}
        self.value = math.nan  # of the last evaluation, and what it was made of
        self.seconds = 0.0
        # Box AP and the mean IoU of every evaluator, by their keys, and the arrays and the names of classes behind them.
        self.exact: dict[str, float] = {}
        self.arrays: dict[str, dict[str, Any]] = {}
        self.classes: dict[str, list[str]] = {}
        self.empty: set[str] = set()  # prefixes of evaluators that were given no detection
        self.images: dict[str, Any] = {}
        self.predictions: list[Prediction] = []

    def before_train(self, runner: Any) -> None:
        """Read the file; repeat a validation that a kill has prevented after its checkpoint."""
        loop, step = runner.train_loop, runner.iter
        if self.file.exists():
            self.points = {at: value for at, value in json.loads(self.file.read_text()) if at <= step}
        if step and step not in self.points and (step % loop.val_interval == 0 or step == loop.max_iters):
            runner.val_loop.run()

    def before_val_epoch(self, runner: Any) -> None:
        """Watch the evaluator."""
        self._watch(runner.val_loop.evaluator)

    def before_test_epoch(self, runner: Any) -> None:
        """Watch the evaluator."""
        self._watch(runner.test_loop.evaluator)

    def after_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Keep the label maps of a segmenter, the detections of a detector."""
        self.predictions += predictions(outputs or ())

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Add a point to the curve."""
        self._read(metrics or {})
        self.points[runner.iter] = self.value
        with write_whole(self.file) as file:
            file.write(json.dumps(sorted(self.points.items())).encode())

    def after_test_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Keep the metric."""
        self._read(metrics or {})

    def by_class(self) -> dict[str, float | None] | None:
        """Return the metric of each class in the last evaluation, from 0 to 1, None for a class that no image has.

        None where the arrays of images are not known.
        """
        return dict(zip(self.classes[self.metric["key"]], by_class(self.images))) if self.images else None

    def _read(self, metrics: Mapping[str, float]) -> None:
        key = self.metric["key"]
        nothing = 0.0 if key.rpartition("/")[0] in self.empty else None
        value = self.exact.get(key, metrics.get(key, nothing))
        self.images = self.arrays.get(key, {}) if self.metric["larger"] else {}
        if value is None:
            raise ValueError(f"metric.key (--metric) must be one of {', '.join(sorted(metrics))}, got {key!r}")
        value = float(value)
        if not math.isfinite(value):
            raise ValueError(
                f"metric.key must have finite values, got {value} of {key!r}; name another, or a larger split"
            )
        self.value, self.seconds = value if self.metric["larger"] else -value, time.monotonic() - self.seconds

    def _watch(self, evaluator: Any) -> None:
        self.exact, self.arrays, self.classes, self.empty, self.predictions = {}, {}, {}, set(), []
        self.seconds = time.monotonic()
        for metric in evaluator.metrics:
            vars(metric).pop("compute_metrics", None)  # of the validation before
            note = self._note_boxes if hasattr(metric, "_coco_api") else self._note_areas
            names = list((metric.dataset_meta or {}).get("classes", ()))
            given = dict(compute=metric.compute_metrics, prefix=metric.prefix or "", classes=names)
            metric.compute_metrics = lambda results, note=note, given=given: note(results=results, **given)

    def _note(self, key: str, value: float, arrays: dict[str, Any], classes: list[str]) -> None:
        self.exact[key], self.arrays[key], self.classes[key] = value, arrays, classes

    def _note_areas(self, compute: Any, results: list[Any], prefix: str, classes: list[str]) -> Any:
        found = compute(results)
        if "mIoU" in found:
            intersection, union = (torch.stack(column).double().numpy() for column in list(zip(*results))[:2])
            seen = union.sum(0) > 0
            value = 100 * float((intersection.sum(0)[seen] / union.sum(0)[seen]).mean())
            key = f"{prefix}/mIoU" if prefix else "mIoU"
            self._note(key, value, dict(intersection=intersection, union=union), classes)
        return found

    def _note_boxes(self, compute: Any, results: list[Any], prefix: str, classes: list[str]) -> Any:
        from pycocotools.cocoeval import COCOeval

        evaluations: list[Any] = []
        accumulate = COCOeval.accumulate

        def watched(evaluation: Any, *arguments: Any) -> None:
            evaluations.append(evaluation)
            accumulate(evaluation, *arguments)

        with replaced(COCOeval, "accumulate", watched):
            found = compute(results)
        if not found:  # where a detector has found nothing at all
            self.empty.add(prefix)
        for evaluation in evaluations:
            if evaluation.params.iouType == "bbox" and evaluation.params.useCats:
                # A label is the place of a category in the annotations, whatever the order of the config's classes.
                names = [evaluation.cocoGt.cats[category]["name"] for category in evaluation.params.catIds]
                key = f"{prefix}/bbox_mAP" if prefix else "bbox_mAP"
                self._note(key, float(evaluation.stats[0]), match_boxes(evaluation), names)
        return found


def match_boxes(evaluation: Any) -> dict[str, Any]:
    """Return the arrays of `statistics.resample` for an evaluation of boxes; none where there are crowds."""
    params, columns = evaluation.params, []
    objects = np.zeros((len(params.imgIds), len(params.catIds)), np.int32)
    for category, image in np.ndindex(objects.T.shape):
        # The first of the areas is that of all sizes.
        found = evaluation.evalImgs[category * len(params.areaRng) * len(objects) + image]
        if found is not None:
            if np.any(found["gtIgnore"]):
                return {}
            scores = found["dtScores"]
            match = np.reshape(found["dtMatches"], (len(params.iouThrs), len(scores))).T[:COUNTED] > 0
            objects[image, category], count = len(found["gtIds"]), len(match)
            columns.append((match, np.float32(scores[:count]), np.full(count, image), np.full(count, category)))
    if not columns:
        return {}
    names = ("match", "score", "image", "category")
    return {name: np.concatenate(column) for name, column in zip(names, zip(*columns))} | dict(objects=objects)
