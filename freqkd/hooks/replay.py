"""Replay of a training step from a file of its batch, weights and random states."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from mmengine.logging import MessageHub
from torch import Tensor, nn

from freqkd.datasets.plain_data import from_plain, left_out, plain_tensors, to_plain
from freqkd.models.step_record import LOWERED, Finding, StepRecord
from freqkd.taps import flatten_maps
from freqkd.utils.checkpoints import CheckpointError, load_safely, load_strict, write_atomic
from freqkd.utils.randomness import set_random_state

KIND = "freqkd_replay"
_COUNTERS = ("iter", "epoch", "max_iters", "max_epochs")


def bad_data(batch: Any) -> list[Finding]:
    """Return the parts of a batch that are not finite, with the paths of their images.

    >>> batch = dict(inputs=[torch.ones(2), torch.tensor([1.0, torch.inf])], data_samples=[None, None])
    >>> [one.name for one in bad_data(batch)]
    ['inputs[1]']
    """
    batch = batch if isinstance(batch, Mapping) else {"batch": batch}
    paths = [getattr(sample, "img_path", "") for sample in batch.get("data_samples") or ()]
    found: dict[str, float] = {}
    for part, value in batch.items():
        is_rows = value.dim() > 0 if isinstance(value, Tensor) else isinstance(value, (list, tuple))
        for index, row in enumerate(value if is_rows else [value]):
            image = f" of {paths[index]}" if index < len(paths) and paths[index] else ""
            for place, tensor in plain_tensors(to_plain(row)):
                if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                    found[f"{part}[{index}]{place}{image}"] = float(tensor.sum())
    return [Finding("data", name, value) for name, value in found.items()]


def precision_of(optim_wrapper: Any) -> dict[str, Any]:
    """Return the precision of an optimizer wrapper: the dtype of `autocast` and the scale of the loss."""
    scaler = getattr(optim_wrapper, "loss_scaler", None)
    dtype = getattr(optim_wrapper, "cast_dtype", None) or (None if scaler is None else torch.float16)
    name = None if dtype is None else str(dtype).removeprefix("torch.")
    return {"autocast": name, "scale": 1.0 if scaler is None else float(scaler.get_scale())}


def write_replay(
    path: str | os.PathLike[str],
    model: nn.Module,
    batch: Any,
    random_state: Mapping[str, Any],
    found: Sequence[Finding],
    **facts: Any,
) -> None:
    """Write a step to a file, whole or not at all.

    Args:
        path: the file.
        model: with its weights and buffers from before the step.
        batch: the batch of the data loader.
        random_state: the result of `get_random_state` before the step.
        found: the losses and gradients that were not finite.
        facts: losses, step, rank, world size, precision.

    Raises:
        OSError: the file cannot be written.
    """
    info = MessageHub.get_current_instance().runtime_info
    convolutions = [one for one in model.parameters() if one.dim() == 4 and not one.is_contiguous()]
    write_atomic(
        {
            "kind": KIND,
            "state_dict": {key: value.detach().cpu().clone() for key, value in model.state_dict().items()},
            "batch": to_plain(batch),
            "random_state": dict(random_state),
            "findings": [one.plain() for one in found],
            "progress": {key: int(info[key]) for key in _COUNTERS if info.get(key) is not None},
            LOWERED: dict(info.get(LOWERED, {})),
            "channels_last": bool(convolutions),
            **facts,
        },
        path,
    )


def read_replay(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file of `write_replay`, which holds tensors and plain data and runs no code.

    Raises:
        CheckpointError: the file is missing, damaged or not a replay file.
    """
    name = str(path)
    if not os.path.isfile(name):
        raise CheckpointError(f"replay file not found: {name}; name the non_finite_step_N.pth of a work dir")
    loaded = load_safely(name, name)
    if not isinstance(loaded, dict) or loaded.get("kind") != KIND:
        raise CheckpointError(f"{name} is not a replay file; name the non_finite_step_N.pth of a work dir")
    return loaded


class Replay:
    """A training step that was run again.

    Attributes:
        losses: each loss by name.
        norms: `{(term, path): {level: norm}}` of the gradients that terms send to the student's maps.
        first: the first module whose output was not finite; "" where all were finite.
        found: the losses and gradients that were not finite, see `Finding`.
        left_out: parts of the batch that the file could not hold.
    """

    def __init__(self, model: nn.Module, replay: Mapping[str, Any], source: str) -> None:
        """Run the step.

        Args:
            model: built from the config of the training.
            replay: what `read_replay` returned.
            source: the file's name in messages.

        Raises:
            CheckpointError: the file's weights are of another model, or its batch names a class that is not allowed.
        """
        network: Any = model
        if hasattr(network, "prepare"):
            network.prepare()
        load_strict(network, replay["state_dict"], source)
        if replay["channels_last"]:
            network.to(memory_format=torch.channels_last)
        hub = MessageHub.get_current_instance()
        hub.update_info_dict({**replay["progress"], LOWERED: replay[LOWERED]})
        batch = from_plain(replay["batch"])
        self.left_out = sorted(set(left_out(replay["batch"])))
        self.first = ""
        device = next(network.parameters()).device
        precision = replay["precision"]
        dtype = getattr(torch, precision["autocast"]) if precision["autocast"] else None
        record = StepRecord(network.train(), torch.linalg.vector_norm)
        handles = [part.register_forward_hook(self._watch(name)) for name, part in _named_parts(network)]
        set_random_state(replay["random_state"])
        try:
            with record:
                with torch.autocast(device.type, dtype) if dtype else nullcontext():
                    losses = network._run_forward(network.data_preprocessor(batch, True), mode="loss")
                total, _ = network.parse_losses(losses)
                with record.backward():
                    (total * precision["scale"]).backward()
        finally:
            for handle in handles:
                handle.remove()
        self.losses = {name: float(value) for name, value in record.losses.items()}
        self.norms: dict[tuple[str, str], dict[int, float]] = {}
        for (term, path, level), value in sorted(record.gradients.items()):
            self.norms.setdefault((term, path), {})[level] = float(value) / precision["scale"]
        parameters = {name: one for name, one in network.named_parameters() if one.requires_grad}
        self.found = [*bad_data(batch), *record.findings(parameters)]

    def _watch(self, name: str) -> Any:
        def watch(module: nn.Module, inputs: Any, output: Any) -> None:
            maps = [one for one in flatten_maps(output) if one.is_floating_point()]
            if not self.first and not all(bool(torch.isfinite(one).all()) for one in maps):
                self.first = name

        return watch


def _named_parts(network: Any) -> Iterator[tuple[str, nn.Module]]:
    """Yield a model and its modules by name, and those of its teacher."""
    for name, part in network.named_modules():
        yield name or "model", part
    if hasattr(type(network), "prepare"):
        for name, part in network.teacher.model.named_modules():
            yield f"teacher.{name}".rstrip("."), part
