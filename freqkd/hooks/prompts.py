"""Hooks of the prompt stage: the prompt file, and statistics of the masks before and after."""

from __future__ import annotations

import os
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import Hook

from freqkd.models.prompt_file import write_prompts
from freqkd.models.prompt_tuner import PromptTuner
from freqkd.utils.processes import unwrapped


class _PromptStageHook(Hook):
    """A hook of the prompt stage alone; with another model it would first fail when the training ends."""

    def check_model(self, model: Any) -> None:
        """Raise ValueError where a model is of no prompt stage."""
        if not isinstance(model, PromptTuner):
            raise ValueError(
                f"{type(self).__name__} belongs to a prompt stage (model.type='freqkd.PromptTuner'), got "
                f"{type(model).__name__}; leave it out"
            )

    def before_train(self, runner: Any) -> None:
        """Check the model, also in a training that `freqkd train` has not started."""
        self.check_model(unwrapped(runner.model))


class PromptFileHook(_PromptStageHook):
    """Write `WORK_DIR/prompts.pth` when the prompt stage ends: tokens, gates, the teacher's hash, and what they are for.

    The file is written after the last step, before the last validation, which may fail. `freqkd train` adds this hook to a
    prompt stage that has none.

    Args:
        name: the file's name inside the work dir.

    Raises:
        ValueError: `name` is not one; before training, the model is no `PromptTuner`.
    """

    priority = "LOW"

    def __init__(self, name: str = "prompts.pth") -> None:
        if not (isinstance(name, str) and name and not os.path.isabs(name)):
            raise ValueError(f"name must be a file's name inside the work dir, e.g. 'prompts.pth', got {name!r}")
        self.name = name
        self._written = False

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Write the file after the last step."""
        if runner.iter + 1 >= runner.max_iters:
            self._write(runner)

    def after_train(self, runner: Any) -> None:
        """Write the file where training ended otherwise."""
        if not self._written:
            self._write(runner)

    @master_only
    def _write(self, runner: Any) -> None:
        model = unwrapped(runner.model)
        path = os.path.join(runner.work_dir, self.name)
        write_prompts(model, path)
        self._written = True
        runner.logger.info(f"Wrote the prompts to {path} ({os.path.getsize(path) / 1e3:.0f} kB)")


class PromptStatisticsHook(_PromptStageHook):
    """Measure the masks on the first validation batch, before and after the prompt stage, and log both.

    Prompts near their start keep the teacher's metric and teach nothing: their masks overlap wholly and are flat.
    The numbers stay in the message hub as `prompt_statistics_before` and `prompt_statistics_after`: see
    `PromptTuner.measure` for what they are. They are saved and restored with the checkpoint. Without validation data
    nothing is measured, and a warning says so.

    Raises:
        ValueError: before training, the model is no `PromptTuner`.
    """

    priority = "LOW"

    def _measure(self, runner: Any, when: str) -> None:
        if runner.val_loop is None:
            if when == "before":
                runner.logger.warning(
                    "PromptStatisticsHook measures nothing: it needs val_dataloader, and the config has none"
                )
            return
        model = unwrapped(runner.model)
        batch = next(iter(runner.val_dataloader))
        data = model.data_preprocessor(batch, False)
        numbers = model.measure(data["inputs"], data["data_samples"])
        runner.message_hub.update_info(f"prompt_statistics_{when}", numbers)
        words = ", ".join(f"{name} {value:.4f}" for name, value in numbers.items())
        runner.logger.info(f"Masks {when} the prompt stage: {words}")

    def before_train(self, runner: Any) -> None:
        """Measure the start, unless a resumed run has it already."""
        super().before_train(runner)
        if "prompt_statistics_before" not in runner.message_hub.runtime_info:
            self._measure(runner, "before")

    def after_train(self, runner: Any) -> None:
        """Measure the end."""
        self._measure(runner, "after")
