"""Channels-last memory format, in which convolutions are faster on current CPUs and GPUs."""

from __future__ import annotations

import logging
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from torch import nn

NARROW = 16  # input channels, floats in a register of AVX-512


class ChannelsLastHook(Hook):
    """Convert the weights of student and teacher to channels-last before training; feature maps follow the weights.

    Only the order in memory changes: checkpoints stay the same, results to rounding. The conversion comes after the
    initialisation of the weights, which draws in the order of memory. The model of several processes is wrapped again:
    `DistributedDataParallel` lays out its gradient buckets by the weights it is given, and would read gradients of another
    layout in the wrong order.

    On CPUs with AVX-512 a model is left as it is, with a warning, where it has a 1 x 1 convolution with a stride and fewer than
    16 input channels: in channels last, oneDNN 3.12 (torch 2.13) writes beyond the memory of its gradient.

    Raises:
        ValueError: before the first step, the Runner cannot wrap its model again.
    """

    priority = "VERY_HIGH"

    def before_train(self, runner: Any) -> None:
        """Convert the model, and the teacher of a distiller or prompt tuner."""
        model = runner.model
        if found := _corrupting(model):
            print_log(
                f"freqkd.ChannelsLastHook leaves the model as it is: the gradients of {', '.join(found)} (1 x 1, with a "
                f"stride, fewer than {NARROW} input channels) would damage memory in channels last on this processor; "
                "widen these, or leave the hook out to silence this",
                "current",
                logging.WARNING,
            )
            return
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


def _corrupting(model: nn.Module) -> list[str]:
    """Return the names of the convolutions whose gradient damages memory on this processor."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return []
    return [
        name
        for name, conv in model.named_modules()
        if isinstance(conv, nn.Conv2d)
        and (conv.kernel_size, conv.groups, conv.weight.device.type) == ((1, 1), 1, "cpu")
        and max(conv.stride) > 1
        and conv.in_channels < NARROW
    ]
