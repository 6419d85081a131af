"""The data sets of a config: those inside wrappers, their classes, and by whose rules they read their files."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

from freqkd.utils.slots import describe

LARGE = 50_000_000  # bytes; a larger annotation file is not read twice, and a metric that reads it not built
_LIBRARIES = ("mmengine", "mmcv", "mmdet", "mmseg", "freqkd")


class DataError(ValueError):
    """A data set cannot be used; the message names the split, the file, the rule and what to do."""


def leaf_datasets(config: Any, is_wrapped: bool = False) -> Iterator[tuple[Mapping[str, Any], bool]]:
    """Yield the data sets inside wrappers such as RepeatDataset, and whether a wrapper has a pipeline of its own."""
    if isinstance(config, (list, tuple)):
        for item in config:
            yield from leaf_datasets(item, is_wrapped)
    elif isinstance(config, Mapping):
        inner = config.get("dataset") or config.get("datasets")
        if inner is not None:
            yield from leaf_datasets(inner, is_wrapped or bool(config.get("pipeline")))
        else:
            yield config, is_wrapped


def dataset_class(dataset: Mapping[str, Any]) -> Any:
    """Return the class that a data set's config names; None if it is not registered."""
    with DATASETS.switch_scope_and_registry(dataset.get("_scope_")) as registry:
        return registry.get(dataset["type"]) if isinstance(dataset.get("type"), str) else dataset.get("type")


def lists_images(kind: Any) -> bool:
    """Whether a class derives from MMEngine's `BaseDataset` and can be built without listing its images."""
    if not (isinstance(kind, type) and issubclass(kind, BaseDataset)):
        return False
    parameters = inspect.signature(kind).parameters.values()
    return any(one.name == "lazy_init" or one.kind is one.VAR_KEYWORD for one in parameters)


def is_local(options: Mapping[str, Any]) -> bool:
    """Whether a data set, a transform or a metric reads plain files, rather than a database or a server.

    >>> is_local(dict(data_root="data/")), is_local(dict(data_root="s3://bucket/")), is_local(dict(ann_file="a.json"))
    (True, False, True)
    >>> is_local(dict(ann_file="a.json", backend_args=dict(backend="petrel")))
    False
    """
    backends = [options.get(name) for name in ("backend_args", "file_client_args")]
    prefixes = options.get("data_prefix")
    places = [options.get("data_root"), options.get("ann_file")]
    places += list(prefixes.values()) if isinstance(prefixes, Mapping) else []
    return all(
        one.get("backend", "local") in ("local", "disk") for one in backends if isinstance(one, Mapping)
    ) and not any("://" in place for place in places if isinstance(place, str))


def is_library(kind: Any) -> bool:
    """Whether a class or a function is one of the OpenMMLab packages, or of this one, rather than a user's own.

    >>> is_library(BaseDataset), is_library(dict)
    (True, False)
    """
    return str(getattr(kind, "__module__", "")).split(".")[0] in _LIBRARIES


def inherits(kind: Any, *methods: str) -> bool:
    """Whether a class has these methods, named `CLASS.METHOD`, from the class of that name in one of the packages.

    >>> inherits(BaseDataset, "BaseDataset.full_init"), inherits(BaseDataset, "CocoDataset.full_init")
    (True, False)
    """
    found = [inspect.unwrap(getattr(kind, method.split(".")[1], None)) for method in methods]  # type: ignore[arg-type]
    return all(
        getattr(one, "__qualname__", None) == method and is_library(one)
        for one, method in zip(found, methods, strict=True)
    )


def joins_paths(kind: Any) -> bool:
    """Whether `data_root`, `ann_file` and `data_prefix` of a class are paths that MMEngine joins and its own code reads."""
    listing = getattr(kind, "load_data_list", None)
    return lists_images(kind) and inherits(kind, "BaseDataset._join_prefix") and is_library(listing)


def root_of(dataset: Mapping[str, Any]) -> str:
    """Return the folder of a data set; "" where it has none.

    Raises:
        DataError: it is no text.
    """
    root = dataset.get("data_root") or ""
    if not isinstance(root, str):
        raise DataError(f"data_root must be a path, got {describe(root)}; name one folder")
    return root


def annotations_of(dataset: Mapping[str, Any]) -> str:
    """Return the path of a data set's annotations; "" where it has none.

    Raises:
        DataError: it is no text.
    """
    path = dataset.get("ann_file") or ""
    if not isinstance(path, str):
        raise DataError(f"ann_file must be a path, got {describe(path)}; name one file")
    return path if not path or os.path.isabs(path) else os.path.join(root_of(dataset), path)


def prefixes_of(dataset: Mapping[str, Any]) -> dict[str, str]:
    """Return the folders that a data set names, without empty ones.

    Raises:
        DataError: they are no dict of texts.
    """
    prefixes = dataset.get("data_prefix") or {}
    if not isinstance(prefixes, Mapping) or not all(
        isinstance(value, (str, type(None))) for value in prefixes.values()
    ):
        raise DataError(f"data_prefix must be a dict of folders, e.g. dict(img='images/'), got {describe(prefixes)}")
    return {key: value for key, value in prefixes.items() if value}
