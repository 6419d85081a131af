"""Weights and maps laid out channels-last in memory, which convolutions on today's processors and GPUs prefer."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper


class ChannelsLastHook(Hook):
    """Turn the weights of student and teacher channels-last before training; maps follow the weights.

    Only the order in memory changes, so checkpoints and results stay what they are, to rounding. It changes after the
    weights were initialised, because initialisations draw in the order of memory. A wrapper for several processes is made
    anew around the converted model: `DistributedDataParallel` lays out its buckets of gradients by the weights it is
    given, and would read gradients of another layout in the wrong order.

    Raises:
        ValueError: before the first step, the Runner cannot wrap its model anew.
    """

    priority = "VERY_HIGH"

    def before_train(self, runner: Any) -> None:
        """Convert the model; a distiller or prompt tuner takes its teacher along."""
        model = runner.model
        if not is_model_wrapper(model):
            model.to(memory_format=torch.channels_last)
            return
        if not hasattr(runner, "wrap_model"):
            raise ValueError(
                f"freqkd.ChannelsLastHook must convert a model before {type(model).__name__} wraps it, which a "
                f"{type(runner).__name__} does not allow; leave the hook out: default_hooks.channels_last=None"
            )
        module, is_compiled = model.module.to(memory_format=torch.channels_last), "train_step" in vars(model)
        del model
        runner.model = None  # the old wrapper lets go of the gradients
        runner.model = runner.wrap_model(runner.cfg.get("model_wrapper_cfg"), module)
        if is_compiled:
            runner._maybe_compile("train_step")
