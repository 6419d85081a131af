"""Rehearsal of a model on one image before a run: the image, and errors that say which part failed."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.dataset import pseudo_collate
from mmengine.logging import MessageHub
from torch import Tensor, nn

from freqkd.teacher.teacher import blank_image, freeze_statistics, rehearsal
from freqkd.utils.checkpoints import CheckpointError
from freqkd.utils.errors import is_deliberate, one_line


class RehearsalError(Exception):
    """A part of a model failed in its rehearsal for a reason that no check foresaw; the message names part and image."""


@dataclass(frozen=True)
class RehearsalImage:
    """One image as the networks receive it.

    Attributes:
        inputs: (1, C, H, W), normalised.
        samples: its sample in a list, with the ground truth; None: the image is blank, or has no sample.
        name: what it is, for messages.

    >>> str(RehearsalImage(torch.zeros(1, 3, 64, 96), None, "a blank image"))
    'a blank image, input (1, 3, 64, 96)'
    """

    inputs: Tensor
    samples: Any
    name: str

    def __str__(self) -> str:
        return f"{self.name}, input {tuple(self.inputs.shape)}"


def take_image(network: nn.Module, sample: Mapping[str, Any] | None, size: tuple[int, int]) -> RehearsalImage:
    """Return an image for a rehearsal.

    Args:
        network: whose `data_preprocessor` the image passes, on whose device it lies.
        sample: what the pipeline of the training data gave for it; left as it is. None: a blank image.
        size: height and width of the blank image.

    Raises:
        RehearsalError: the preprocessor fails, or does not give one tensor.
    """
    if sample is None:
        return RehearsalImage(blank_image(network, size), None, "a blank image")
    with part_of_rehearsal("the data preprocessor", "an image of the training data"):
        data = network.data_preprocessor(pseudo_collate([copy.deepcopy(sample)]), True)  # type: ignore[operator]
        inputs, samples = data["inputs"], data.get("data_samples")
        if not isinstance(inputs, Tensor):
            raise TypeError(f"inputs must be one tensor, got {type(inputs).__name__}")
    return RehearsalImage(inputs, samples, "an image of the training data")


@contextmanager
def part_of_rehearsal(part: str, image: RehearsalImage | str, prefix: str = "") -> Iterator[None]:
    """Say in the errors of a block that it was a rehearsal, of which part, and on what.

    Args:
        part: what the block runs, e.g. `"the student"`.
        image: what it runs on.
        prefix: the beginning of the messages that this package wrote itself, e.g. `"terms.loss_freekd: "`.

    Raises:
        ValueError: in place of one that this package raised on purpose (`CheckpointError` for such a one).
        RehearsalError: in place of any other error.

    >>> with part_of_rehearsal("the student", "a blank image, input (1, 3, 64, 96)"):
    ...     torch.zeros(2) + torch.zeros(3)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    freqkd.models.rehearsal.RehearsalError: the student failed in a rehearsal on a blank image, input (1, 3, 64, 96): ...
    """
    try:
        yield
    except Exception as error:
        if not is_deliberate(error):
            raise RehearsalError(f"{part} failed in a rehearsal on {image}: {one_line(error)}") from error
        kind = CheckpointError if isinstance(error, CheckpointError) else ValueError
        raise kind(f"{prefix}{error} (in a rehearsal of {part} on {image})") from None


@contextmanager
def rehearsing(model: nn.Module) -> Iterator[None]:
    """Put a model in training mode without a graph, statistics frozen; modes, buffers and random numbers stay as they were."""
    modes = {module: module.training for module in model.modules()}
    buffers = [(buffer, buffer._version, buffer.clone()) for buffer in model.buffers()]
    freeze_statistics(model.train())
    try:
        with torch.no_grad(), rehearsal(), first_iteration():
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        for buffer, version, before in buffers:
            if buffer._version != version:
                buffer.copy_(before)


@contextmanager
def first_iteration() -> Iterator[None]:
    """Let the message hub say that this is the first iteration, as a Runner does: some preprocessors and heads ask it."""
    info = MessageHub.get_current_instance().runtime_info
    lacking = [name for name in ("iter", "epoch") if name not in info]
    info.update(dict.fromkeys(lacking, 0))
    try:
        yield
    finally:
        for name in lacking:
            info.pop(name, None)
