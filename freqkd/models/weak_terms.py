"""Notice of terms that pull much less than the ratio that was asked for."""

from __future__ import annotations

import math
from collections import deque

from torch import nn

from freqkd.models.weight import HeldRatioWeight, RatioWeight

LEAST = 0.05  # of the ratio that was asked for
COUNT = 5  # measurements whose mean is judged: one batch may have little for a term


class WeakTerms:
    """Compare the measured pull of terms with their ratios, and say once of each that it is weak.

    >>> weight = RatioWeight(ratio=0.5, iters=1)
    >>> weight.measured.count = weight.measured.task_sum = weight.measured.term_sum = 1
    >>> weak = WeakTerms()
    >>> [bool(weak.notice("loss_logit", weight, 0.01, 1.0)) for _ in range(7)]
    [False, False, False, False, True, False, False]
    """

    def __init__(self) -> None:
        self._recent: dict[str, deque[float]] = {}
        self._said: set[str] = set()

    def notice(self, name: str, weight: nn.Module, ratio: float, factor: float) -> str:
        """Return a sentence on a term that pulls with under 5 % of its ratio, "" where nothing is to be said.

        Args:
            name: the term's.
            weight: the term's; only a ratio that is measured to its end is compared, and one that is held if it stays 0.
            ratio: the term's weighted gradient to the task's, at the tap in this iteration.
            factor: of the term's schedule; where it is not 1, the term is meant to pull less.
        """
        if not isinstance(weight, RatioWeight) or not weight.is_measured or factor != 1 or name in self._said:
            return ""
        if not math.isfinite(ratio) or (isinstance(weight, HeldRatioWeight) and weight.measured.term_sum > 0):
            return ""
        recent = self._recent.setdefault(name, deque(maxlen=COUNT))
        recent.append(ratio)
        pull = sum(recent) / len(recent) / weight.ratio
        if weight.measured.term_sum > 0 and (len(recent) < COUNT or pull >= LEAST):
            return ""
        self._said.add(name)
        if not weight.measured.term_sum:
            until = " until it has one" * isinstance(weight, HeldRatioWeight)
            return (
                f"terms.{name} pulls with 0 % of the ratio asked for, {weight.ratio:g}: its gradient at the tap was 0 in all "
                f"{weight.iters} measured iterations, and its weight stays 0{until}; look whether its loss has anything to "
                "compare"
            )
        return (
            f"terms.{name} pulls with {100 * pull:.2g} % of the ratio asked for, {weight.ratio:g}, in the last {COUNT} "
            "measured iterations: its gradient has become much smaller than while its weight was measured; measure longer "
            "(weight=dict(iters=...)), or give the weight as a number"
        )
