"""Weight of a term: a number, or a ratio to the task's gradient at the tapped features, measured once or held."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from freqkd.utils.checks import check_at_least, check_flag, check_positive, check_whole, did_you_mean

_KINDS = {"float": torch.float64, "int": torch.long}
SAMPLES = 5  # iterations of an interval that are measured to hold a ratio
INNER = 0.25  # of a band, in the exponent: the band to which corrections bring the ratio
LARGEST_FACTOR = 10.0  # of one correction


class FixedWeight(nn.Module):
    """A number.

    Args:
        weight: at least 0.

    Raises:
        ValueError: it is negative, or not a number.
    """

    def __init__(self, weight: float) -> None:
        super().__init__()
        check_at_least("weight", weight, 0)
        self.weight = float(weight)
        self.wants_gradients = False

    def update(self, task_norm: Tensor, term_norm: Tensor) -> None:
        """Do nothing: a number needs no measurement."""

    def end_iteration(self) -> None:
        """Do nothing: a number stays what it is."""

    def value(self) -> float:
        """Return the weight."""
        return self.weight


@dataclass
class Measurement:
    """What a ratio weight has measured: sums of both norms, and over how many iterations.

    A deep copy is the same object. `clone` and `copy_` are what tensors have, for those who put a step's changes back.
    """

    task_sum: float = 0.0
    term_sum: float = 0.0
    count: int = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Measurement:
        return self

    def clone(self) -> Measurement:
        """Return another one that holds the same."""
        return replace(self)

    def copy_(self, other: Measurement) -> None:
        """Take over what another one holds."""
        vars(self).update(vars(other))


def measurements(model: nn.Module) -> list[Measurement]:
    """Return what the ratio weights in a model have measured, which a training step changes, as it does buffers."""
    return [part.measured for part in model.modules() if isinstance(part, RatioWeight)]


class RatioWeight(nn.Module):
    """The weight that makes a term's gradient in a given ratio to the task's.

    w = ratio * mean_i |d task / d features| / mean_i |d term / d features|, running means over the iterations so far;
    from iteration `iters` on it is frozen. Multiplying the term by a constant therefore changes nothing.
    The state dict has the measurement, so it is saved with the checkpoint and restored on resume. It is not a buffer, and an
    averaged copy of the model (EMA) has the training's own: the mean of a counter counts nothing.

    Args:
        ratio: above 0; 0.5 lets the term pull half as hard as the task.
        iters: iterations measured, each at the cost of one more backward pass from the losses to the tap.

    Raises:
        ValueError: an argument out of range.

    >>> weight = RatioWeight(ratio=0.5, iters=2)
    >>> weight.update(torch.tensor(4.0), torch.tensor(100.0))
    >>> round(weight.value(), 4)
    0.02
    """

    def __init__(self, ratio: float, iters: int = 50) -> None:
        super().__init__()
        check_positive("weight.ratio", ratio)
        check_whole("weight.iters", iters, 1)
        self.ratio, self.iters = float(ratio), iters
        self.measured = Measurement()

    @property
    def is_measured(self) -> bool:
        """Whether the first measurement is over."""
        return self.measured.count >= self.iters

    @property
    def wants_gradients(self) -> bool:
        """Whether the gradients of this iteration are to be measured."""
        return not self.is_measured

    def update(self, task_norm: Tensor, term_norm: Tensor) -> None:
        """Take in one iteration's gradient norms; a non-finite one (an overflow under AMP) is left out."""
        task, term = float(task_norm), float(term_norm)
        if self.wants_gradients and math.isfinite(task) and math.isfinite(term):
            self._take(task, term)

    def _take(self, task: float, term: float) -> None:
        self.measured.task_sum += task
        self.measured.term_sum += term
        self.measured.count += 1

    def end_iteration(self) -> None:
        """Do nothing: a weight that was measured stays what it is."""

    def value(self) -> float:
        """Return the weight; 0 while the term has shown no gradient."""
        return self.ratio * self.measured.task_sum / self.measured.term_sum if self.measured.term_sum > 0 else 0.0

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, kind in self._kinds().items():
            destination[prefix + name] = torch.tensor(getattr(self.measured, name), dtype=kind)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        (strict, missing), kinds = args[1:3], self._kinds()
        for name in kinds:
            if prefix + name in state_dict:
                setattr(self.measured, name, state_dict[prefix + name].item())
            elif strict:
                missing.append(prefix + name)
        others = {key: value for key, value in state_dict.items() if key[len(prefix) :] not in kinds}
        super()._load_from_state_dict(others, prefix, *args)

    def _kinds(self) -> dict[str, torch.dtype]:
        return {field.name: _KINDS[str(field.type)] for field in fields(self.measured)}


@dataclass
class HeldMeasurement(Measurement):
    """What a held ratio weight has measured: beside the first measurement, its corrections and the interval that it is in.

    Attributes:
        correction: the product of all corrections so far.
        done: iterations of this interval that are over.
        recent_task: sum of the norms of the task's gradient that were measured in this interval.
        recent_term: of the term's.
    """

    correction: float = 1.0
    done: int = 0
    recent_task: float = 0.0
    recent_term: float = 0.0


class HeldRatioWeight(RatioWeight):
    """The weight that keeps a term's gradient in a given ratio to the task's, within a band, throughout the training.

    It is measured over `iters` iterations like a `RatioWeight`. Then, after every `interval` iterations, with r the weight
    times sum_i |d term / d features| / sum_i |d task / d features| over the measured iterations of the interval, and r* the
    number nearest to r between ratio / b and ratio * b,

    w <- w * min(max(r* / r, 1/10), 10), b = band^(1/4).

    The bounds of a correction lie inside the band, so that the ratio stays in the band while it drifts until the next one.
    A weight that is 0 because the term had no gradient at first is measured by the first interval in which it has one.
    Where a term's gradient vanishes for good, its weight grows from interval to interval: let such a term end (`schedule`).

    Args:
        ratio: above 0.
        iters: iterations of the first measurement.
        band: above 1; with 1.5, the ratio may lie between ratio / 1.5 and ratio * 1.5.
        interval: iterations from one correction to the next; about five of them are measured, spread evenly.

    Raises:
        ValueError: an argument out of range.

    >>> weight = HeldRatioWeight(ratio=0.5, iters=1, band=16.0, interval=1)
    >>> for term in (100.0, 100.0, 10.0):
    ...     weight.update(torch.tensor(4.0), torch.tensor(term))
    ...     weight.end_iteration()
    >>> round(weight.value(), 4)  # 4 / 100 / 2, corrected from a ratio of 0.05 to 0.25
    0.1
    """

    measured: HeldMeasurement

    def __init__(self, ratio: float, iters: int = 50, band: float = 1.5, interval: int = 20) -> None:
        super().__init__(ratio, iters)
        check_at_least("weight.band", band, 1, exclusive=True)
        check_whole("weight.interval", interval, 1)
        self.band, self.interval = float(band), interval
        self.measured = HeldMeasurement()

    @property
    def wants_gradients(self) -> bool:
        """Whether the gradients of this iteration are to be measured."""
        return not self.is_measured or self.measured.done % max(self.interval // SAMPLES, 1) == 0

    def _take(self, task: float, term: float) -> None:
        if self.is_measured:
            self.measured.recent_task += task
            self.measured.recent_term += term
            return
        super()._take(task, term)
        self.measured.done = -1 if self.is_measured else 0  # the first interval begins after this iteration

    def end_iteration(self) -> None:
        """Count an iteration, and correct the weight where it ends an interval."""
        if not self.is_measured:
            return
        self.measured.done += 1
        if self.measured.done >= self.interval:
            self._correct()
            self.measured.done = 0
            self.measured.recent_task = self.measured.recent_term = 0.0

    def _correct(self) -> None:
        measured = self.measured
        if not (measured.recent_task > 0 and measured.recent_term > 0):
            return
        if not self.value():
            measured.task_sum, measured.term_sum = measured.recent_task, measured.recent_term
            return
        found = self.value() * measured.recent_term / measured.recent_task
        bound = self.band**INNER
        nearest = min(max(found, self.ratio / bound), self.ratio * bound)
        measured.correction *= min(max(nearest / found, 1 / LARGEST_FACTOR), LARGEST_FACTOR)

    def value(self) -> float:
        """Return the weight; 0 while the term has shown no gradient."""
        return super().value() * self.measured.correction


_ONCE = ("ratio", "iters")  # arguments of a ratio that is measured once
_HELD = ("hold", "band", "interval")  # further ones of a ratio that is held


def build_weight(weight: float | Mapping[str, Any]) -> FixedWeight | RatioWeight:
    """Make a weight of a number, of `dict(ratio=..., iters=...)`, or of `dict(ratio=..., hold=True, ...)`.

    Raises:
        ValueError: none of the three.

    >>> build_weight({"portion": 0.5})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: weight must be a number or dict(ratio=..., iters=50), with hold=True, band= and interval= where ...
    """
    words = "weight must be a number or dict(ratio=..., iters=50)"
    if isinstance(weight, Mapping):
        unknown = [name for name in weight if name not in (*_ONCE, *_HELD)]
        if unknown or "ratio" not in weight:
            got = f"{unknown[0]!r}{did_you_mean(str(unknown[0]), [*_ONCE, *_HELD])}" if unknown else f"{dict(weight)}"
            raise ValueError(f"{words}, with hold=True, band= and interval= where the ratio is held, got {got}")
        options = {name: value for name, value in weight.items() if name != "hold"}
        check_flag("weight.hold", weight.get("hold", False))
        if weight.get("hold"):
            return HeldRatioWeight(**options)
        if others := [name for name in options if name not in _ONCE]:
            raise ValueError(f"weight.{others[0]} must be left out without hold=True, got {options[others[0]]!r}")
        return RatioWeight(**options)
    if isinstance(weight, bool) or not isinstance(weight, (int, float)):
        raise ValueError(f"{words}, got {weight!r}")
    return FixedWeight(weight)
