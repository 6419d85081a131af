"""Sizes of the images that networks are trained and tested on, as far as their pipelines state them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config

Size = tuple[int, int]
CHANGERS = ("Resize", "Crop", "Mosaic", "MixUp", "Affine", "Expand", "Choice")  # in names of steps that change sizes
RATIO = 4 / 3  # of the longer side over the shorter, where images keep theirs: that of most photographs
FURTHEST = 1.5  # times: a teacher is expected to work on images whose side differs by no more


def resizing(step: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return scale and `keep_ratio` of a `Resize`, None of other steps, and where it states no scale.

    >>> resizing(dict(type="Resize", scale=(320, 240)))
    {'scale': (320, 240), 'keep_ratio': False}
    """
    scale = step.get("scale")
    if _kind(step) != "Resize" or not isinstance(scale, (tuple, list)) or len(scale) != 2:
        return None
    return dict(scale=tuple(scale), keep_ratio=bool(step.get("keep_ratio", False)))


def last_resizing(pipeline: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the `Resize` that decides the size of a pipeline's images, None where another step does, or none.

    >>> last_resizing([dict(type="RandomCrop", crop_size=(512, 512)), dict(type="Resize", scale=(300, 300))])
    {'scale': (300, 300), 'keep_ratio': False}
    >>> last_resizing([dict(type="Resize", scale=(300, 300)), dict(type="RandomCrop", crop_size=(512, 512))])
    """
    changing = [step for step in pipeline if any(word in _kind(step) for word in CHANGERS)]
    return resizing(changing[-1]) if changing else None


def size_after(resize: Mapping[str, Any] | None) -> Size | None:
    """Return height and width of an image after a `Resize`; where its ratio is kept, of a photograph in landscape format.

    >>> size_after(dict(scale=(1333, 800), keep_ratio=True)), size_after(dict(scale=(512, 512), keep_ratio=False))
    ((800, 1067), (512, 512))
    """
    if resize is None:
        return None
    if not resize["keep_ratio"]:
        width, height = resize["scale"]
        return int(height), int(width)
    long, short = max(resize["scale"]), min(resize["scale"])
    height = min(short, long / RATIO)
    return round(height), round(height * RATIO)


def pipeline_of(config: Config, split: str) -> list[Any]:
    """Return the pipeline of a config's data set; empty where several data sets or images are mixed."""
    dataset = (config.get(f"{split}_dataloader") or {}).get("dataset")
    while isinstance(dataset, Mapping) and isinstance(dataset.get("dataset"), Mapping) and not dataset.get("pipeline"):
        dataset = dataset["dataset"]
    return list(dataset.get("pipeline") or ()) if isinstance(dataset, Mapping) and "dataset" not in dataset else []


def training_size(config: Config) -> Size | None:
    """Return height and width of the images that a config trains on, None where its pipeline draws or does not state them."""
    return size_after(last_resizing(pipeline_of(config, "train")))


def resizings(config: Config, splits: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the resizing of each split whose pipeline states it."""
    for split in splits:
        if found := last_resizing(pipeline_of(config, split)):
            yield found


def factor(own: Size, other: Size) -> float:
    """Return how many times larger the first images are than the second, by the roots of their areas.

    >>> factor((200, 200), (100, 100))
    2.0
    """
    return math.sqrt(own[0] * own[1] / (other[0] * other[1]))


def are_apart(own: Size | None, other: Size | None) -> bool:
    """Whether both sizes are known, and differ by more than a teacher is expected to bear.

    >>> are_apart((800, 1067), (240, 320)), are_apart((800, 1067), (640, 853)), are_apart(None, (240, 320))
    (True, False, False)
    """
    return own is not None and other is not None and not 1 / FURTHEST <= factor(own, other) <= FURTHEST


def in_words(size: Size) -> str:
    """Return a size as one says it, the width first.

    >>> in_words((240, 320))
    '320x240'
    """
    return f"{size[1]}x{size[0]}"


def _kind(step: Mapping[str, Any]) -> str:
    return str(step.get("type", "")).split(".")[-1]
