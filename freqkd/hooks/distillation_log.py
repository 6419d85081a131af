"""The log of a distillation: what is distilled, small numbers that can be read, and what came of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import Hook

from freqkd.models.distiller import Distiller
from freqkd.models.summary import Shapes, summarize
from freqkd.models.teacher_stage import TeacherStage
from freqkd.utils.processes import unwrapped


class DistillationLogHook(Hook):
    """Log what is distilled before the first iteration, and the student's last metrics at the end.

    Numbers of the training that MMEngine would write as 0.0000 are written in scientific notation. `train.py` adds this hook.

    Args:
        shapes: of what is tapped, see `Distiller.rehearse`; None: they are not logged.
    """

    priority = "VERY_LOW"

    def __init__(self, shapes: Shapes | None = None) -> None:
        self.shapes = shapes
        self._metrics: Mapping[str, Any] = {}

    @master_only
    def before_train(self, runner: Any) -> None:
        """Log what is distilled."""
        show_small_numbers(runner.log_processor)
        model = unwrapped(runner.model)
        if isinstance(model, (Distiller, TeacherStage)):
            what = "What is distilled" if isinstance(model, Distiller) else "Teacher of this stage"
            runner.logger.info("\n    ".join([f"{what}:", *summarize(model, self.shapes)]))

    def after_val_epoch(self, runner: Any, metrics: Mapping[str, Any] | None = None) -> None:
        """Keep the metrics."""
        self._metrics = metrics or {}

    @master_only
    def after_train(self, runner: Any) -> None:
        """Log the student's metrics of the last validation, and how to get the teacher's."""
        model = unwrapped(runner.model)
        if isinstance(model, Distiller) and self._metrics:
            numbers = [f"{name} {value:.4g}" for name, value in self._metrics.items() if isinstance(value, Real)]
            runner.logger.info(f"Distilled student: {', '.join(numbers)}{_teachers_test(model.teacher)}")


def _teachers_test(teacher: Any) -> str:
    """Return the command that measures a teacher, where it names files."""
    named = [getattr(teacher, name, None) for name in ("config", "checkpoint")]
    if not all(isinstance(one, (str, os.PathLike)) and one for one in named) or getattr(teacher, "cfg_options", None):
        return ""
    return f"; its teacher: freqkd test {named[0]} {named[1]}"


class _SmallNumber(float):
    """A number whose fixed notation falls back to scientific where it would show less than two of its digits.

    >>> [f"{_SmallNumber(value):.4f}" for value in (0.25, 0.0012, 0.00012, -3e-7, 0.0)]
    ['0.2500', '0.0012', '1.2000e-04', '-3.0000e-07', '0.0000']
    """

    def __format__(self, form: str) -> str:
        fixed = super().__format__(form)
        hidden = form.endswith("f") and self and len(fixed.lstrip("-0.")) < 2
        return super().__format__(f"{form[:-1]}e") if hidden else fixed


def show_small_numbers(processor: Any) -> None:
    """Let a `LogProcessor` of MMEngine write the training's small numbers in scientific notation."""
    collect = processor._collect_scalars

    def collected(windows: Sequence[Mapping[str, Any]], runner: Any, mode: str, *others: Any) -> dict[str, Any]:
        found = collect(windows, runner, mode, *others)
        if mode == "train":
            found.update({name: _SmallNumber(value) for name, value in found.items() if isinstance(value, float)})
        return found

    processor._collect_scalars = collected
