"""Schedule of a term's weight: warm-up, decay and end, by the Runner's own counters."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import LOOPS, DefaultScope
from mmengine.runner import IterBasedTrainLoop

from freqkd.utils.checks import check_choice, check_flag, check_whole

TASK = "task_schedule"


class TermSchedule:
    """A factor on a term's weight over the training.

    0 before `begin`, then rising linearly to 1 over `warmup`, then constant or falling as a cosine from 1 to 0 until
    `end`, and 0 after it. A term past its end keeps weight 0 rather than vanish, so that DDP finds every parameter.

    Args:
        begin: first epoch (or iteration) of the term.
        warmup: epochs (or iterations) of linear rise: 1/warmup in the first, 1 from the last on.
        end: the first epoch (or iteration) without the term; None: the end of training.
        decay: `"none"` or `"cosine"`.
        by_epoch: count epochs; otherwise iterations.

    Raises:
        ValueError: an argument out of range.

    >>> schedule = TermSchedule(warmup=4, end=10)
    >>> [schedule.factor(step, 20) for step in (0, 1, 3, 9, 10)]
    [0.25, 0.5, 1.0, 1.0, 0.0]
    """

    def __init__(
        self, begin: int = 0, warmup: int = 0, end: int | None = None, decay: str = "none", by_epoch: bool = True
    ) -> None:
        check_whole("schedule.begin", begin, 0)
        check_whole("schedule.warmup", warmup, 0)
        check_choice("schedule.decay", decay, ("none", "cosine"))
        check_flag("schedule.by_epoch", by_epoch)
        if end is not None:
            check_whole("schedule.end", end, 1)
            if end <= begin:
                raise ValueError(f"schedule.end must be above {begin}, schedule.begin, got {end}")
        self.begin, self.warmup, self.end, self.decay, self.by_epoch = begin, warmup, end, decay, by_epoch

    @property
    def changes(self) -> bool:
        """Whether the factor is ever another than 1."""
        return bool(self.begin or self.warmup > 1 or self.end is not None or self.decay != "none")

    def factor(self, step: int, last: int) -> float:
        """Return the factor at a 0-based epoch or iteration of a training of `last` of them."""
        end = last if self.end is None else self.end
        if step < self.begin or (self.end is not None and step >= self.end):
            return 0.0
        done = step - self.begin
        if done < self.warmup:
            return (done + 1) / self.warmup
        if self.decay == "cosine":
            length = max(end - self.begin - self.warmup, 1)
            return 0.5 * (1 + math.cos(math.pi * min((done - self.warmup) / length, 1.0)))
        return 1.0

    def __call__(self) -> float:
        """Return the factor now; 1 outside a Runner, which alone keeps the counters."""
        hub = MessageHub.get_current_instance()
        step, last = ("epoch", "max_epochs") if self.by_epoch else ("iter", "max_iters")
        info: dict[str, Any] = hub.runtime_info
        if info.get(step) is None:
            return 1.0
        return self.factor(int(info[step]), int(info.get(last) or 0) or int(info[step]) + 1)


def check_length(config: Config) -> None:
    """Check that a training is to last: a number of iterations or epochs, at least one.

    Raises:
        ValueError: it is 0, negative, not whole or no number.

    >>> check_length(Config(dict(train_cfg=dict(by_epoch=False, max_iters=0))))
    Traceback (most recent call last):
    ...
    ValueError: train_cfg.max_iters must be at least 1, got 0
    """
    loop = config.get("train_cfg") or {}
    for name in ("max_iters", "max_epochs"):
        if loop.get(name) is not None:
            check_whole(f"train_cfg.{name}", loop[name], 1)


def check_progress(model: Any, config: Config) -> None:
    """Check that what changes over the training is counted in steps that the training's loop takes.

    A loop over iterations knows no epochs: its count stays at 0, or goes up with every pass over the data. What
    follows it would stay at its first value.

    Args:
        model: what is trained; all but a `Distiller` passes.
        config: the config of the training.

    Raises:
        ValueError: a schedule or a loss counts epochs where the loop counts iterations.
    """
    if not _is_over_iterations(config.get("train_cfg") or {}, config.get("default_scope")):
        return
    for name, schedule in _schedules(model):
        if schedule.by_epoch and schedule.changes:
            raise ValueError(
                f"{name} counts epochs, but train_cfg trains by iterations, where the epoch does not count up: give begin, "
                "warmup and end in iterations, with by_epoch=False"
            )
    for name, term in getattr(model, "terms", {}).items():
        if term.progress == "epoch" and term.follows_progress:
            raise ValueError(
                f"terms.{name}: the loss changes from epoch to epoch, but train_cfg trains by iterations, where the epoch "
                "does not count up: set progress='iter', and its options that say epochs= in iterations"
            )


def check_reach(model: Any, config: Config) -> list[str]:
    """Check that schedules reach their weights within the training, where both are counted in the same steps.

    Args:
        model: what is trained; all but a `Distiller` passes.
        config: the config of the training.

    Returns:
        Warnings, of a warm-up that does not end and of a task whose losses do not begin.

    Raises:
        ValueError: a term begins after the end, so that it never acts.
    """
    loop, found = config.get("train_cfg") or {}, []
    for name, schedule in _schedules(model):
        steps, length = (
            ("epochs", loop.get("max_epochs")) if schedule.by_epoch else ("iterations", loop.get("max_iters"))
        )
        if length is None:
            continue
        late = (
            f"{name}.begin must lie before the end of the training, got {schedule.begin} of {length} {steps}; lower it"
        )
        if schedule.begin >= length and name != TASK:
            raise ValueError(f"{late}, or leave out the term")
        if schedule.begin >= length:
            found.append(f"{late}, or train by the terms alone: own_losses=False")
        elif schedule.begin + schedule.warmup > length:
            found.append(
                f"{name}.warmup must end within the training for the full weight, got {schedule.begin} + {schedule.warmup} of "
                f"{length} {steps}; lower it"
            )
    return found


def _schedules(model: Any) -> Iterator[tuple[str, TermSchedule]]:
    """Yield the schedules of a distiller, each with its place in the config."""
    if getattr(model, "task_schedule", None) is not None:
        yield TASK, model.task_schedule
    for name, term in getattr(model, "terms", {}).items():
        if term.schedule is not None:
            yield f"terms.{name}.schedule", term.schedule


def _is_over_iterations(loop: Mapping[str, Any], scope: str | None) -> bool:
    """Whether MMEngine will make a loop over iterations of `train_cfg`."""
    if "type" not in loop:
        return not loop.get("by_epoch", True)
    with DefaultScope.overwrite_default_scope(scope):
        kind = LOOPS.get(loop["type"]) if isinstance(loop["type"], str) else loop["type"]
    return isinstance(kind, type) and issubclass(kind, IterBasedTrainLoop)
