"""Filling of a teacher's cache before a training: every view once, by several processes at once, continued after a stop."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader, Dataset

from freqkd.datasets.fixed_views import VIEW, FixedViews
from freqkd.teacher.cache import CachedTeacher
from freqkd.teacher.entries import count_entries, in_words, used_bytes
from freqkd.teacher.preprocessing import padded_size
from freqkd.utils.checks import check_whole

_PAUSE = 10.0  # seconds between two lines of progress


def _as_it_is(item: Any) -> Any:
    return item


class _Missing(Dataset):
    """Views that are to be stored; None for one that another process has stored meanwhile."""

    def __init__(self, dataset: FixedViews, teacher: CachedTeacher) -> None:
        self.dataset, self.teacher = dataset, teacher
        views = [(image, view) for image in range(len(dataset)) for view in range(dataset.views)]
        # Several processes take the views in several orders, and so seldom the same at the same time.
        random.Random().shuffle(views)
        # The first is looked at even if it is there: that shows whether the folder was made for this run.
        self.views = [views[0], *(one for one in views[1:] if not teacher.has(*one))]

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, place: int) -> Any:
        view = self.views[place]
        return None if place and self.teacher.has(*view) else self.dataset.get_view(*view)


def fill_cache(model: Any, dataset: FixedViews, batch_size: int = 1, num_workers: int = 0) -> int:
    """Store the teacher's maps of every view that is not stored yet.

    Args:
        model: the `Distiller` or `PromptTuner` of the training that the cache is for, whose teacher is cached.
        dataset: the training's fixed views.
        batch_size: views that the teacher sees at once, all of one size; always as many, so that a cache has the same values
            wherever its filling was stopped.
        num_workers: processes that load images.

    Returns:
        The number of views that were stored here.

    Raises:
        ValueError: the teacher is not cached, or see `CachedTeacher`.
        CheckpointError: see `CachedTeacher`.
    """
    check_whole("batch_size", batch_size, 1)
    check_whole("num_workers", num_workers, 0)
    teacher = model.teacher
    if not isinstance(teacher, CachedTeacher):
        raise ValueError("teacher.cache must be set to fill a cache: teacher=dict(..., cache=dict(dir=..., views=...))")
    model.prepare()
    total = len(dataset) * dataset.views
    loader = DataLoader(_Missing(dataset, teacher), batch_size=None, num_workers=num_workers, collate_fn=_as_it_is)
    stored, reported = 0, time.monotonic()
    for items in _batches(loader, model.data_preprocessor, batch_size):
        new = sum(not teacher.has(*item["data_samples"].metainfo[VIEW][:2]) for item in items)
        data = model.data_preprocessor(pseudo_collate(items), True)
        teacher.fill(teacher.normalize(data["inputs"], data["data_samples"]), data["data_samples"], batch_size)
        stored += new
        if time.monotonic() - reported > _PAUSE:
            reported = time.monotonic()
            print(f"{count_entries(teacher.dir)} of {total} views are stored, {stored} of them by this process")
    used = used_bytes(teacher.dir)
    print(
        f"{teacher.dir}: {count_entries(teacher.dir)} of {total} views are stored, {stored} of them new, "
        f"{in_words(used)} ({used} bytes)"
    )
    return stored


def _batches(items: Any, preprocessor: Any, batch_size: int) -> Iterator[list[Any]]:
    """Group samples of one padded size."""
    waiting: dict[tuple[int, int], list[Any]] = {}
    for item in items:
        if item is None:
            continue
        size = padded_size(preprocessor, item["data_samples"].metainfo[VIEW].shape)
        group = waiting.setdefault(size, [])
        group.append(item)
        if len(group) == batch_size:
            yield waiting.pop(size)
    yield from waiting.values()
