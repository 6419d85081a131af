"""Activation checkpointing of a network whose maps are tapped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import mmengine.runner.activation_checkpointing as of_mmengine
import torch
import torch.utils.checkpoint as of_torch

from freqkd.utils.patches import replaced


@contextmanager
def recomputed_with_graph() -> Iterator[None]:
    """Let activation checkpointing keep a graph inside the block, where a call does not say otherwise.

    The blocks of mmdet and mmseg (`with_cp=True`) and MMEngine's `activation_checkpointing` leave the kind of checkpoint to
    torch, whose default (`use_reentrant=True`) runs their forward without a graph: a map that is tapped inside carries no
    gradient, and `torch.autograd.grad`, by which ratio weights are measured, refuses every block behind the tap. The other kind
    gives the same numbers and has neither limit. Either runs the block a second time in the backward pass, when the taps of
    the forward pass are gone, so every map is recorded once.

    >>> layer, x = torch.nn.Linear(2, 2), torch.ones(1, 2, requires_grad=True)
    >>> with recomputed_with_graph():
    ...     out = of_torch.checkpoint(layer, x)
    >>> torch.autograd.grad(out.sum(), x)[0].shape
    torch.Size([1, 2])
    """
    if torch.compiler.is_compiling():
        yield
        return
    keeping = partial(of_torch.checkpoint, use_reentrant=False)
    with replaced(of_torch, "checkpoint", keeping), replaced(of_mmengine, "checkpoint", keeping):
        yield
