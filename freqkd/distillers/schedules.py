"""When a term counts: warm-up, decay and end, told by the Runner's own counters."""

from __future__ import annotations

import math
from typing import Any

from mmengine.logging import MessageHub

from freqkd.checks import check_at_least, check_choice


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

    >>> schedule = TermSchedule(warmup=4, end=10)
    >>> [schedule.factor(step, 20) for step in (0, 1, 3, 9, 10)]
    [0.25, 0.5, 1.0, 1.0, 0.0]
    """

    def __init__(
        self, begin: int = 0, warmup: int = 0, end: int | None = None, decay: str = "none", by_epoch: bool = True
    ) -> None:
        check_at_least("schedule.begin", begin, 0)
        check_at_least("schedule.warmup", warmup, 0)
        check_choice("schedule.decay", decay, ("none", "cosine"))
        if end is not None:
            check_at_least("schedule.end", end, begin, exclusive=True)
        self.begin, self.warmup, self.end, self.decay, self.by_epoch = begin, warmup, end, decay, by_epoch

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
