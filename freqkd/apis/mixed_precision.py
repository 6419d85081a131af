"""Mixed precision of a training: what `--amp` changes in its config, and the optimizer wrapper of bfloat16."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from mmengine.runner.amp import autocast
from torch import nn

from freqkd.utils.checks import check_choice

PRECISIONS = ("bfloat16", "float16")


class Bfloat16OptimWrapper(OptimWrapper):
    """MMEngine's `OptimWrapper` for a forward pass in bfloat16 where that is safe (`torch.autocast`).

    bfloat16 has the range of float32, so the loss is not scaled, and no step is skipped. MMEngine's `AmpOptimWrapper` scales
    it all the same, and asks for an accelerator; this one runs on the CPU, too.

    Its arguments are those of `OptimWrapper`.

    Config::

        optim_wrapper = dict(type='freqkd.Bfloat16OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))

    >>> parameter = nn.Parameter(torch.ones(1))
    >>> wrapper = Bfloat16OptimWrapper(optimizer=torch.optim.SGD([parameter], lr=0.1))
    >>> with wrapper.optim_context(nn.Module()):
    ...     (torch.ones(1, 1) @ parameter[None]).dtype
    torch.bfloat16
    """

    cast_dtype = torch.bfloat16

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run the forward pass of the block in bfloat16."""
        with super().optim_context(model), autocast(dtype=self.cast_dtype):
            yield


def set_precision(config: Config, precision: str | None = None) -> None:
    """Change the optimizer wrapper of a config to one of mixed precision, in place.

    Args:
        config: the config of a training.
        precision: "bfloat16", "float16", or None for MMEngine's own choice, float16 on CUDA devices.

    Raises:
        ValueError: another precision, or one that the CPU has no autocast for.

    >>> config = Config(dict(optim_wrapper=dict(type="AmpOptimWrapper", loss_scale=512.0, accumulative_counts=2)))
    >>> set_precision(config, "bfloat16")
    >>> dict(config.optim_wrapper)
    {'type': 'freqkd.Bfloat16OptimWrapper', 'accumulative_counts': 2}
    """
    wrapper = config.optim_wrapper
    if precision == "bfloat16":
        for option in ("loss_scale", "dtype", "use_fsdp"):  # of AmpOptimWrapper
            wrapper.pop(option, None)
        wrapper.type = "freqkd.Bfloat16OptimWrapper"
        return
    if precision is not None:
        check_choice("--amp", precision, PRECISIONS)
    if get_device() == "cpu":
        given = "--amp" if precision is None else f"--amp {precision}"
        raise ValueError(
            f"{given} needs an accelerator, and torch finds none; on the CPU take --amp bfloat16, or leave it out"
        )
    wrapper.type = "AmpOptimWrapper"
    wrapper.setdefault("loss_scale", "dynamic")
    if precision is not None:
        wrapper.dtype = precision
