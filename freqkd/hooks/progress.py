"""Progress on the console, and the training time across interruptions."""

from __future__ import annotations

import sys
import time
from typing import Any

from mmengine.hooks import Hook

from freqkd.utils.checks import check_at_least

SECONDS = "train_seconds"


class ProgressHook(Hook):
    """Print steps, speed and time left, and count the seconds spent in training.

    The seconds are `train_seconds` of the message hub. Validation is not counted; a resumed run continues from the seconds
    in its checkpoint.

    Args:
        label: what the lines start with.
        every: seconds between two lines.

    Raises:
        ValueError: `every` is not a number, or below 0.
    """

    priority = "VERY_LOW"

    def __init__(self, label: str = "training", every: float = 15.0) -> None:
        check_at_least("every", every, 0)
        self.label, self.every = label, every
        # The console as it is now: a caller may redirect the Runner's output to a file.
        self.out = sys.__stdout__ or sys.stdout

    def before_train(self, runner: Any) -> None:
        """Start the clock, in a resumed run with the seconds of its checkpoint."""
        self.spent = float(runner.message_hub.runtime_info.get(SECONDS, 0.0))
        self.mark = self.shown = time.monotonic()
        self.first_step, self.spent_before = runner.iter, self.spent

    def before_val(self, runner: Any) -> None:
        """Stop the clock."""
        self.spent += time.monotonic() - self.mark

    def after_val(self, runner: Any) -> None:
        """Start the clock again."""
        self.mark = time.monotonic()

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Add the step's time; print a line if one is due."""
        now = time.monotonic()
        self.spent += now - self.mark
        self.mark = now
        runner.message_hub.update_info(SECONDS, self.spent)
        done, total = runner.iter + 1, runner.max_iters
        if now - self.shown < self.every and done < total:
            return
        self.shown = now
        pace = (self.spent - self.spent_before) / (done - self.first_step)
        left = f", {pace * (total - done):.0f} s left" if done < total else f", {self.spent:.0f} s"
        print(f"    {self.label}: step {done} of {total}, {pace:.2f} s each{left}", file=self.out, flush=True)
