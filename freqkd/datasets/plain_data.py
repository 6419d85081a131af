"""Conversion of batches to tensors and plain data, which a file can hold without code."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

from freqkd.datasets.fixed_views import Source, View
from freqkd.utils.checkpoints import CheckpointError

_STRUCTURES = re.compile(r"(mmengine|mmdet|mmseg)\.structures(\.\w+)*")
_TUPLES: dict[str, Any] = {"View": View, "Source": Source}


def to_plain(value: Any) -> Any:
    """Convert a batch to tensors and plain data; data samples become dicts that name their class.

    Objects of other classes, and arrays of anything but numbers, are left out by name.

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
    """Convert the result of `to_plain` back; only classes of mmengine's, mmdet's and mmseg's structures are built.

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
    """Return the class that a file names, if it is one of the structures of data samples."""
    module, _, kind = str(name).rpartition(".")
    if not _STRUCTURES.fullmatch(module):
        raise CheckpointError(
            f"the replay file names {name!r}, which is not a class of mmengine.structures, mmdet.structures or "
            "mmseg.structures; it is not built"
        )
    root, _, parent_kind = base.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), kind)
        parent = getattr(importlib.import_module(root), parent_kind)
    except (ImportError, AttributeError):
        raise CheckpointError(f"the replay file names {name!r}, which is not installed") from None
    if not (isinstance(found, type) and issubclass(found, parent)):
        raise CheckpointError(f"the replay file names {name!r}, which is not a {parent_kind}")
    return found


def plain_tensors(value: Any, place: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in the result of `to_plain`, with their places in the original."""
    if isinstance(value, Tensor):
        yield place, value
    elif isinstance(value, dict):
        for key, item in value.items():
            is_form = key in ("dict", "array", "fields", "meta", "boxes", "masks", "items")
            yield from plain_tensors(item, place if is_form else f"{place}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from plain_tensors(item, f"{place}[{index}]")


def left_out(value: Any) -> Iterator[str]:
    """Yield the kinds of objects that `to_plain` left out."""
    if isinstance(value, dict):
        if "left_out" in value:
            yield value["left_out"]
        for item in value.values():
            yield from left_out(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from left_out(item)
