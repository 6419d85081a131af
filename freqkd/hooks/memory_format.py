"""Channels-last memory format, in which convolutions are faster on current CPUs and GPUs."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper


class ChannelsLastHook(Hook):
    """Convert the weights of student and teacher to channels-last before training; feature maps follow the weights.

    Only the order in memory changes: checkpoints stay the same, results to rounding. The conversion comes after the
    initialisation of the weights, which draws in the order of memory. The model of several processes is wrapped again:
    `DistributedDataParallel` lays out its gradient buckets by the weights it is given, and would read gradients of another
    layout in the wrong order.

    Raises:
        ValueError: before the first step, the Runner cannot wrap its model again.
    """

    priority = "VERY_HIGH"

    def before_train(self, runner: Any) -> None:
        """Convert the model, and the teacher of a distiller or prompt tuner."""
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
        runner.model = None  # so that the old wrapper releases the gradients
        runner.model = runner.wrap_model(runner.cfg.get("model_wrapper_cfg"), module)
        if is_compiled:
            runner._maybe_compile("train_step")
