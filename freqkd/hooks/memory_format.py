"""Keep maps channels-last in memory, which convolutions on today's processors and GPUs prefer."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.hooks import Hook


class ChannelsLastHook(Hook):
    """Turn the weights of student and teacher channels-last before training; maps follow the weights.

    Only the order in memory changes, so checkpoints and results stay what they are, to rounding.
    """

    priority = "VERY_HIGH"

    def before_train(self, runner: Any) -> None:
        """Convert the model; a distiller or prompt tuner takes its teacher along."""
        runner.model.to(memory_format=torch.channels_last)
