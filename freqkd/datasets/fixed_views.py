"""Data set with a few fixed views of every image: the pipeline's random numbers depend on image and view only."""

from __future__ import annotations

import copy
import hashlib
import json
import random
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from torch.utils.data import Dataset

from freqkd.utils.checks import LONGEST, check_whole

VIEW = "fixed_view"  # the key in a sample's metainfo
_HANDLING = ("lazy_init", "serialize_data", "backend_args", "file_client_args", "max_refetch")
# Transforms that mix in images of earlier visits, as configs and as objects name them.
_REMEMBERING = re.compile(r'(?<="type": ")[\w.]*Cached\w+|"use_cached": true|^Cached\w+(?=\()', re.MULTILINE)
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # differs from process to process
_TEXTS: dict[str, tuple[str, ...]] = {}


class Source(NamedTuple):
    """Where views come from; `data` and `pipeline` are fingerprints, see `text_of`."""

    images: int
    views: int
    seed: int
    data: str
    pipeline: str


class View(NamedTuple):
    """Which view a sample is: `shape` (height, width) of its image and a checksum of its pixels, before any padding."""

    image: int
    view: int
    shape: tuple[int, int]
    pixels: int
    source: Source


def fingerprint(lines: tuple[str, ...]) -> str:
    """Name a text by 16 hexadecimal digits; `text_of` gives it back within this process."""
    name = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    _TEXTS[name] = lines
    return name


def text_of(name: str) -> tuple[str, ...]:
    """Return the lines that a fingerprint of this process stands for; none if it was made elsewhere.

    >>> text_of(fingerprint(("Resize", "RandomFlip")))
    ('Resize', 'RandomFlip')
    """
    return _TEXTS.get(name, ())


def canonical(value: Any) -> str:
    """Write a part of a config on one line, the same for equal parts.

    >>> canonical(dict(b=(1, 2), a=None)) == canonical(dict(a=None, b=[1, 2]))
    True
    """
    return _ADDRESS.sub("", json.dumps(value, sort_keys=True, default=str))


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Draw from generators of Python, numpy and torch (CPU) seeded by `numbers`, then restore their states.

    >>> with seeded(0, 1):
    ...     first = random.random()
    >>> with seeded(0, 1):
    ...     random.random() == first
    True
    """
    python, array, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    number = int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:8], "little", signed=True)
    random.seed(number)
    np.random.seed(number % 2**32)
    # Not torch.manual_seed, which also seeds accelerators, and those are not restored.
    torch.default_generator.manual_seed(number)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(array)
        torch.set_rng_state(torch_state)


class FixedViews(Dataset):
    """A data set whose every image has `views` fixed views; one of them is drawn at each visit.

    The inner data set's pipeline runs as it is, with the generators of Python, numpy and torch seeded by `seed`, image
    and view. Which view is drawn comes from the ordinary randomness (workers that start again with every epoch draw the same
    sequence: shuffle, or keep them, for all views to come up). The sample says in its metainfo which view it is
    (`View`), so that a teacher's maps can be stored for it (`teacher=dict(cache=...)`). Samplers, hooks and loops find
    what they need of the inner data set here.

    Config::

        dict(type='freqkd.FixedViews', dataset=dict(type='CocoDataset', ...), views=4, seed=0)

    Args:
        dataset: a data set whose pipeline ends in `Pack...Inputs`, or its config.
        views: K, views of every image.
        seed: other views for another seed.

    Raises:
        ValueError: `views` is below 1; a transform remembers earlier images; the pipeline does not end in a sample with
            an image.
    """

    def __init__(self, dataset: Any, views: int, seed: int = 0) -> None:
        check_whole("views", views, 1)
        check_whole("seed", seed, -LONGEST)
        if isinstance(dataset, Mapping):
            config = Config(copy.deepcopy(dict(dataset))).to_dict()
            pipeline = tuple(canonical(step) for step in config.pop("pipeline", None) or ())
            data = tuple(f"{key}: {canonical(value)}" for key, value in sorted(config.items()) if key not in _HANDLING)
            dataset = DATASETS.build(dataset)
        else:
            transforms = getattr(getattr(dataset, "pipeline", None), "transforms", ())
            pipeline = tuple(_ADDRESS.sub("", repr(transform)) for transform in transforms)
            data = (type(dataset).__name__, canonical(dataset.metainfo))
        remembering = _REMEMBERING.search("\n".join(data + pipeline))
        if remembering:
            name = remembering[0].split(".")[-1]
            raise ValueError(
                f"dataset must draw an image from nothing but its index, got a pipeline with {name}, which mixes in "
                "images of earlier visits; use the transform that has no cache"
            )
        self.dataset = dataset
        self.views = views
        self.seed = seed
        self._prints = fingerprint(data), fingerprint(pipeline)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.get_view(index, int(np.random.randint(self.views)))

    def get_view(self, index: int, view: int) -> dict[str, Any]:
        """Return one view of one image, the same at every call."""
        index = range(len(self))[index]
        if not 0 <= view < self.views:
            raise ValueError(f"view must lie in [0, {self.views}), got {view}")
        with seeded(self.seed, index, view):
            item = self.dataset[index]
        image, sample = item.get("inputs"), item.get("data_samples")
        if not isinstance(image, torch.Tensor) or not hasattr(sample, "set_metainfo"):
            raise ValueError(
                "the pipeline in freqkd.FixedViews must end in PackDetInputs, PackSegInputs or the like, one image a "
                f"sample, got a result with {sorted(item)}"
            )
        pixels = zlib.crc32(image.contiguous().numpy().data)
        height, width = image.shape[-2:]
        identity = View(index, view, (int(height), int(width)), pixels, self.source)
        sample.set_metainfo({VIEW: identity})
        return item

    @property
    def source(self) -> Source:
        """What all views of this data set have in common."""
        return Source(len(self), self.views, self.seed, *self._prints)

    @property
    def metainfo(self) -> Any:
        """Classes and palette of the inner data set."""
        return self.dataset.metainfo

    def full_init(self) -> None:
        """Load the inner data set's annotations."""
        self.dataset.full_init()

    def get_data_info(self, index: int) -> Any:
        """Return the annotation of an image, as batch samplers ask for it."""
        return self.dataset.get_data_info(index)

    @property
    def pipeline(self) -> Any:
        """The inner data set's pipeline; it cannot be changed, because its views would not be the same."""
        return self.dataset.pipeline

    @pipeline.setter
    def pipeline(self, value: Any) -> None:
        raise ValueError(
            "the pipeline in freqkd.FixedViews must stay as it is, or a view would change; leave out the hook that switches "
            "it (PipelineSwitchHook and the like)"
        )

    def update_skip_type_keys(self, skip_type_keys: Any) -> None:
        """Refuse to switch transforms off during a training, as YOLOXModeSwitchHook would."""
        self.pipeline = None

    def __getattr__(self, name: str) -> Any:
        # Not while it is unpickled, when there is no inner data set yet.
        if name.startswith("__") or "dataset" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self.dataset, name)
