"""A training step that can be run again: its batch, weights and random numbers in a file of tensors and plain data."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from mmengine.logging import MessageHub
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from freqkd.checkpoints import CheckpointError, load_safely, load_strict, write_atomic
from freqkd.datasets.views import Source, View
from freqkd.distillers.record import LOWERED, Finding, StepRecord
from freqkd.randomness import set_random_state
from freqkd.taps import flatten_maps

KIND = "freqkd_replay"
_STRUCTURES = re.compile(r"(mmengine|mmdet|mmseg)\.structures(\.\w+)*")
_TUPLES: dict[str, Any] = {"View": View, "Source": Source}
_COUNTERS = ("iter", "epoch", "max_iters", "max_epochs")


def to_plain(value: Any) -> Any:
    """Turn a batch into tensors and plain data, its samples into dicts that name their class.

    What has no plain form is left out by name; so are arrays of anything but numbers.

    >>> to_plain({"scale": np.float32(0.5), "sizes": (3, np.arange(2)), "odd": len})
    {'dict': {'scale': 0.5, 'sizes': (3, {'array': tensor([0, 1])}), 'odd': {'left_out': 'builtin_function_or_method'}}}
    """
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, np.generic):
        return to_plain(value.item())
    if isinstance(value, np.ndarray):
        try:
            return {"array": torch.from_numpy(np.array(value))}
        except TypeError:
            return {"left_out": f"array of {value.dtype}"}
    if isinstance(value, Mapping):
        return {"dict": {key: to_plain(item) for key, item in value.items() if isinstance(key, (str, int))}}
    if isinstance(value, (View, Source)):
        return {"tuple": type(value).__name__, "items": [to_plain(item) for item in value]}
    if isinstance(value, (list, tuple)):
        items = [to_plain(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, BaseDataElement):
        fields = {key: to_plain(item) for key, item in value.items()}
        return {"class": name, "meta": to_plain(value.metainfo), "fields": fields}
    if name.startswith("mmdet.structures.bbox."):
        return {"class": name, "boxes": to_plain(value.tensor)}
    if name.startswith("mmdet.structures.mask."):
        return {"class": name, "masks": to_plain(value.masks), "size": [int(value.height), int(value.width)]}
    return {"left_out": type(value).__name__}


def from_plain(value: Any) -> Any:
    """Make of what `to_plain` returned what it was; only classes of mmengine's, mmdet's and mmseg's structures are made.

    Raises:
        CheckpointError: another class is named.

    >>> from_plain(to_plain({"sizes": (3, np.arange(2))}))
    {'sizes': (3, array([0, 1]))}
    """
    if isinstance(value, (list, tuple)):
        return type(value)(from_plain(item) for item in value)
    if not isinstance(value, dict):
        return value
    if "dict" in value:
        return {key: from_plain(item) for key, item in value["dict"].items()}
    if "array" in value:
        return value["array"].numpy()
    if "tuple" in value and value["tuple"] in _TUPLES:
        return _TUPLES[value["tuple"]](*from_plain(value["items"]))
    if "fields" in value:
        sample = _find_class(value["class"], "mmengine.structures.BaseDataElement")(metainfo=from_plain(value["meta"]))
        sample.set_data({key: from_plain(item) for key, item in value["fields"].items()})
        return sample
    if "boxes" in value:
        return _find_class(value["class"], "mmdet.structures.bbox.BaseBoxes")(value["boxes"])
    if "masks" in value:
        kind = _find_class(value["class"], "mmdet.structures.mask.BaseInstanceMasks")
        return kind(from_plain(value["masks"]), *value["size"])
    return None


def _find_class(name: str, base: str) -> Any:
    """Return the class that a file names, if it is one of the structures that data samples are made of."""
    module, _, word = str(name).rpartition(".")
    if not _STRUCTURES.fullmatch(module):
        raise CheckpointError(
            f"the replay file names {name!r}, which is no class of mmengine.structures, mmdet.structures or "
            "mmseg.structures; it is not made here"
        )
    root, _, kind = base.rpartition(".")
    try:
        found, parent = getattr(importlib.import_module(module), word), getattr(importlib.import_module(root), kind)
    except (ImportError, AttributeError):
        raise CheckpointError(f"the replay file names {name!r}, which is not installed") from None
    if not (isinstance(found, type) and issubclass(found, parent)):
        raise CheckpointError(f"the replay file names {name!r}, which is no {kind}")
    return found


def bad_data(batch: Any) -> list[Finding]:
    """Return what of a batch is not finite, with the paths of its images.

    >>> batch = dict(inputs=[torch.ones(2), torch.tensor([1.0, torch.inf])], data_samples=[BaseDataElement()] * 2)
    >>> [one.name for one in bad_data(batch)]
    ['inputs[1]']
    """
    batch = batch if isinstance(batch, Mapping) else {"batch": batch}
    paths = [getattr(sample, "img_path", "") for sample in batch.get("data_samples") or ()]
    found: dict[str, float] = {}
    for part, value in batch.items():
        rows = (
            value
            if isinstance(value, (list, tuple, Tensor)) and not (isinstance(value, Tensor) and not value.dim())
            else [value]
        )
        for index, row in enumerate(rows):
            image = f" of {paths[index]}" if index < len(paths) and paths[index] else ""
            for place, tensor in _tensors(to_plain(row)):
                if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                    found[f"{part}[{index}]{place}{image}"] = float(tensor.sum())
    return [Finding("data", name, value) for name, value in found.items()]


def _tensors(value: Any, place: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield place, value
    elif isinstance(value, dict):
        for key, item in value.items():
            known = key in ("dict", "array", "fields", "meta", "boxes", "masks", "items")
            yield from _tensors(item, place if known else f"{place}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _tensors(item, f"{place}[{index}]")


def precision_of(optim_wrapper: Any) -> dict[str, Any]:
    """Return under which precision an optimizer wrapper lets a model run: `autocast`'s dtype and the scale of the loss."""
    scaler = getattr(optim_wrapper, "loss_scaler", None)
    if scaler is None:
        return {"autocast": None, "scale": 1.0}
    dtype = getattr(optim_wrapper, "cast_dtype", None) or torch.float16
    return {"autocast": str(dtype).removeprefix("torch."), "scale": float(scaler.get_scale())}


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
        model: with its weights and buffers as before the step.
        batch: what the data loader gave.
        random_state: of `get_random_state`, before the step.
        found: what was not finite.
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
    """Read what `write_replay` wrote: tensors and plain data, no code.

    Raises:
        CheckpointError: the file is missing, damaged or another one.
    """
    name = str(path)
    if not os.path.isfile(name):
        raise CheckpointError(f"replay file not found: {name}; name the non_finite_step_N.pth of a work dir")
    loaded = load_safely(name, name)
    if not isinstance(loaded, dict) or loaded.get("kind") != KIND:
        raise CheckpointError(f"{name} is no replay file; name the non_finite_step_N.pth of a work dir")
    return loaded


class Replay:
    """One step that was run again.

    Attributes:
        losses: each loss by name.
        norms: `{(term, path): {level: norm}}` of the gradients that terms send to the student's maps.
        first: the first module whose output was not finite; "" where all were.
        found: what was not finite, see `Finding`.
        left_out: parts of the batch that the file could not hold.
    """

    def __init__(self, model: nn.Module, replay: Mapping[str, Any], source: str) -> None:
        """Run the step.

        Args:
            model: built of the config of the training.
            replay: what `read_replay` returned.
            source: its file, as messages name it.

        Raises:
            CheckpointError: the file's weights are of another model, or its batch names a class that is not made.
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
        self.left_out = sorted(set(_left_out(replay["batch"])))
        self.first = ""
        device = next(network.parameters()).device
        precision = replay["precision"]
        dtype = getattr(torch, precision["autocast"]) if precision["autocast"] else None
        record = StepRecord(network.train(), torch.linalg.vector_norm)
        handles = [part.register_forward_hook(self._looker(name)) for name, part in _named_parts(network)]
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

    def _looker(self, name: str) -> Any:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            maps = [one for one in flatten_maps(output) if one.is_floating_point()]
            if not self.first and not all(bool(torch.isfinite(one).all()) for one in maps):
                self.first = name

        return look


def _named_parts(network: Any) -> Iterator[tuple[str, nn.Module]]:
    """Name a model and its modules, and those of a teacher that it holds."""
    for name, part in network.named_modules():
        yield name or "model", part
    if hasattr(type(network), "prepare"):
        for name, part in network.teacher.model.named_modules():
            yield f"teacher.{name}".rstrip("."), part


def _left_out(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "left_out" in value:
            yield value["left_out"]
        for item in value.values():
            yield from _left_out(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _left_out(item)
