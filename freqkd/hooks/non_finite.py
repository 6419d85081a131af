"""Guard against losses and gradients that are not finite."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor

from freqkd.hooks.replay import bad_data, precision_of, write_replay
from freqkd.models.step_record import (
    LOWERED,
    Finding,
    StepRecord,
    main_findings,
    terms_to_blame,
)
from freqkd.models.weight import measurements
from freqkd.utils.checks import check_at_least, check_choice, check_whole
from freqkd.utils.patches import replaced, restore
from freqkd.utils.processes import unwrapped
from freqkd.utils.randomness import get_random_state

DROPPED = "dropped_steps"  # key in the message hub, and so in checkpoints
ACTIONS = ("stop", "skip", "lower")
_ADVICE = (
    "; to drop such steps and continue, add dict(type='freqkd.NonFiniteHook', action='skip') to custom_hooks, or "
    "action='lower' to lower the weight of the term"
)


class NonFiniteError(ValueError):
    """A loss or a gradient is not finite; the message names it, its step, its tap and the replay file."""


class NonFiniteHook(Hook):
    """Check losses and gradients before each step of the optimizer, and drop a step that is not finite.

    Weights, batch norm statistics and measured ratios keep their values from before the step. The first such step of a run
    is written to `WORK_DIR/non_finite_step_N.pth`, for `freqkd replay`. All processes take the same decision. With
    accumulated gradients, a step is all the batches of one step of the optimizer.

    Under AMP, a `GradScaler` finds its scale by infinite gradients: it handles them, until it has skipped `amp_tries` steps
    in a row. A *loss* that is not finite does not depend on the scale, and counts at once.

    Args:
        action: `"stop"` ends the training; `"skip"` continues with the next batch; `"lower"` does so too and multiplies the
            weight of the term that caused it by `factor`, for the rest of the training, resumed or not.
        factor: below 1.
        patience: number of dropped steps in a row that ends the training. It also ends where the weights are already not
            finite, and under "lower" where the cause is not a single term.
        amp_tries: steps that a `GradScaler` may skip in a row; 17 bring its initial scale below 1.

    Raises:
        ValueError: an argument out of range.
        NonFiniteError: in training, see `action` and `patience`.

    Example:
        ```python
        custom_hooks = [dict(type='freqkd.NonFiniteHook', action='lower', factor=0.1)]
        ```
    """

    priority = "VERY_LOW"  # after other hooks, whose changes before a step belong to the step

    def __init__(self, action: str = "stop", factor: float = 0.1, patience: int = 10, amp_tries: int = 20) -> None:
        check_choice("action", action, ACTIONS)
        check_at_least("factor", factor, 0)
        if factor >= 1:
            raise ValueError(f"factor must be below 1, got {factor}")
        check_whole("patience", patience, 1)
        check_whole("amp_tries", amp_tries, 1)
        self.action, self.factor, self.patience, self.amp_tries = action, float(factor), patience, amp_tries
        self._in_a_row = self._tries = 0
        self._dropping = self._saved = False
        # The model's buffers and measured ratios with their values before this batch,
        self._before: list[tuple[Any, Any]] = []
        self._cycle: list[tuple[Any, Any]] = []  # and before the first batch of this step of the optimizer
        self._random: Mapping[str, Any] = {}

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Save what the step may change, and watch the step."""
        optimizer, model = runner.optim_wrapper, runner.model
        if not isinstance(optimizer, OptimWrapper) or isinstance(optimizer, OptimWrapperDict):
            return
        self._random = get_random_state()
        network = unwrapped(runner.model)
        self._before = [(part, part.clone()) for part in (*network.buffers(), *measurements(network))]
        self._cycle = self._cycle or self._before
        own = vars(model).get("train_step")

        def train_step(data: Any, optim_wrapper: Any) -> Any:
            # For this step only, so that an error in it leaves nothing behind.
            restore(model, "train_step", own)
            with self._watching(runner, data_batch):
                return model.train_step(data, optim_wrapper=optim_wrapper)

        model.train_step = train_step

    @contextmanager
    def _watching(self, runner: Any, batch: Any) -> Iterator[None]:
        optimizer = runner.optim_wrapper
        backward, step = optimizer.backward, optimizer.step
        record = StepRecord(unwrapped(runner.model))

        def watched_backward(loss: Tensor, **options: Any) -> None:
            with record.backward():
                backward(loss, **options)
            self._look(runner, record, batch)

        def watched_step(**options: Any) -> None:
            if self._dropping:
                _restore(self._cycle)
            else:
                step(**options)
                self._in_a_row = self._in_a_row if self._tries else 0
            self._dropping, self._cycle = False, []

        with record, replaced(optimizer, "backward", watched_backward), replaced(optimizer, "step", watched_step):
            yield

    def _look(self, runner: Any, record: StepRecord, batch: Any) -> None:
        """Drop the step if a loss or gradient is not finite in any process."""
        if self._dropping:
            return
        optimizer = runner.optim_wrapper
        trained = [one for group in optimizer.param_groups for one in group["params"]]
        suspect = (~torch.isfinite(record.suspicion(trained))).float()
        if runner.world_size > 1:
            all_reduce(suspect, "max")
        if not bool(suspect):
            self._tries = 0
            return
        ids = {id(one) for one in trained}
        parameters = {name: one for name, one in unwrapped(runner.model).named_parameters() if id(one) in ids}
        found = [*bad_data(batch), *record.findings(parameters)]
        if runner.world_size > 1:
            found = [
                Finding.of({**one, "rank": rank})
                for rank, others in enumerate(all_gather_object([one.plain() for one in found]))
                for one in others
            ]
        found = main_findings(found)
        if not any(one.kind != "data" for one in found):
            return  # finite numbers whose sum overflowed
        scaled = getattr(optimizer, "loss_scaler", None) is not None
        if scaled and all(one.kind in ("term", "gradient") for one in found):
            self._tries += optimizer.should_update()
            if self._tries < self.amp_tries:
                return
        self._drop(runner, record, batch, found)

    def _drop(self, runner: Any, record: StepRecord, batch: Any, found: list[Finding]) -> None:
        _restore(self._before)
        where = self._save(runner, record, batch, found)
        _restore(self._cycle)
        runner.optim_wrapper.zero_grad()
        self._dropping = True
        self._in_a_row += 1
        hub = MessageHub.get_current_instance()
        hub.update_info(DROPPED, int(hub.runtime_info.get(DROPPED, 0)) + 1)
        blamed = terms_to_blame(found)
        message = f"step {runner.iter + 1}: {_describe(found, runner.world_size)}"
        if self._tries > 1:
            autocast, scale = precision_of(runner.optim_wrapper).values()
            message += f" (the GradScaler skipped {self._tries - 1} steps in a row, down to a scale of {scale:g})"
            if autocast == "float16":
                message += (
                    "; the losses are finite, but float16 ends at 65504: lower the weight or loss_weight of what it names, or "
                    "train with optim_wrapper.dtype='bfloat16'"
                )
        reason = self._why_stop(found, blamed)
        if reason is not None:
            raise NonFiniteError(f"{message}; the weights are those before it{reason}{where}{_ADVICE * (not reason)}")
        if self.action == "lower":
            factors = dict(hub.runtime_info.get(LOWERED, {}))
            factors.update({term: factors.get(term, 1.0) * self.factor for term in blamed})
            hub.update_info(LOWERED, factors)
            message += "; its weight is lowered: " + ", ".join(f"{term} times {factors[term]:g}" for term in blamed)
        runner.logger.warning(f"{message}; the step is dropped ({self._in_a_row} in a row){where}")

    def _why_stop(self, found: list[Finding], blamed: list[str]) -> str | None:
        """Return a message on why this ends the training, possibly empty; None: it continues."""
        if self.action == "stop":
            return ""
        if any(one.kind == "weight" for one in found):
            return "; dropping the step does not restore them"
        if self.action == "lower" and not blamed:
            return "; the cause is not a single term, so none is lowered"
        if self._in_a_row >= self.patience:
            return f"; {self._in_a_row} steps in a row were dropped (patience={self.patience})"
        return None

    def _save(self, runner: Any, record: StepRecord, batch: Any, found: list[Finding]) -> str:
        """Write the replay file of a run's first such step; return a message on how to use it."""
        if self._saved:
            return ""
        self._saved = True
        path = os.path.join(runner.work_dir, f"non_finite_step_{runner.iter + 1}.pth")
        if runner.rank == found[0].rank:
            try:
                write_replay(
                    path,
                    unwrapped(runner.model),
                    batch,
                    self._random,
                    found,
                    losses={name: float(value) for name, value in record.losses.items()},
                    step=runner.iter + 1,
                    rank=runner.rank,
                    world_size=runner.world_size,
                    precision=precision_of(runner.optim_wrapper),
                )
            except OSError as error:
                return f"; it could not be written to {path} ({error.strerror})"
        return f"; to run it again: freqkd replay {_config_of(runner)} {path}"


def _restore(buffers: list[tuple[Any, Any]]) -> None:
    for buffer, before in buffers:
        buffer.copy_(before)


def _describe(found: list[Finding], world_size: int, most: int = 3) -> str:
    """Describe the first findings, at most `most`."""
    ranks = sorted({one.rank for one in found})
    texts = [str(one) for one in {(one.kind, one.name): one for one in reversed(found)}.values()][::-1]
    message = ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")
    return message + (f" (rank {', '.join(map(str, ranks))})" if world_size > 1 else "")


def _config_of(runner: Any) -> str:
    """Return the config file of a run: the copy in its work dir, which has the changes of the command line."""
    name = getattr(runner.cfg, "filename", None)
    copied = os.path.join(runner.work_dir, os.path.basename(name)) if name else ""
    return copied if os.path.isfile(copied) else name or "CONFIG"
