"""Fill a teacher's cache before a training: every view once, by several processes if wished, and gone on with after a stop."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader, Dataset

from freqkd.checks import check_whole
from freqkd.datasets.views import VIEW, FixedViews
from freqkd.distillers.cache import TeacherCache
from freqkd.distillers.entries import count_entries, in_words, used_bytes
from freqkd.distillers.preprocessing import padded_size

_PAUSE = 10.0  # seconds between two lines of progress


def _as_it_is(item: Any) -> Any:
    return item


class _Missing(Dataset):
    """Views that are to be stored; None for one that another process has stored meanwhile."""

    def __init__(self, views: FixedViews, cache: TeacherCache, wanted: list[tuple[int, int]]) -> None:
        self.views, self.cache, self.wanted = views, cache, wanted

    def __len__(self) -> int:
        return len(self.wanted)

    def __getitem__(self, place: int) -> Any:
        # The first is looked at even if it is there: that shows whether the folder was made for this run.
        return None if place and self.cache.has(*self.wanted[place]) else self.views.get_view(*self.wanted[place])


def fill_cache(model: Any, dataset: FixedViews, batch_size: int = 1, num_workers: int = 0) -> int:
    """Store what the teacher of a `Distiller` or `PromptTuner` gives for every view; what is there is left alone.

    Args:
        model: the model of the training that the cache is for, whose teacher has one.
        dataset: the training's fixed views.
        batch_size: views that the teacher sees at once, all of one size.
        num_workers: processes that load images.

    Returns:
        The number of views that were stored here.

    Raises:
        ValueError: see `TeacherCache`.
    """
    check_whole("batch_size", batch_size, 1)
    check_whole("num_workers", num_workers, 0)
    cache = model.teacher.cache
    total = len(dataset) * dataset.views
    wanted = [(index, view) for index in range(len(dataset)) for view in range(dataset.views)]
    # Several processes take the views in several orders, and so seldom the same at the same time.
    random.Random().shuffle(wanted)
    missing = _Missing(dataset, cache, [wanted[0], *(one for one in wanted[1:] if not cache.has(*one))])
    loader = DataLoader(missing, batch_size=None, num_workers=num_workers, collate_fn=_as_it_is)
    stored, said = 0, time.monotonic()
    for items in _batches(loader, model.data_preprocessor, batch_size):
        new = sum(not cache.has(*item["data_samples"].metainfo[VIEW][:2]) for item in items)
        data = model.data_preprocessor(pseudo_collate(items), True)
        model.remember(data["inputs"], data["data_samples"])
        stored += new
        if time.monotonic() - said > _PAUSE:
            said = time.monotonic()
            print(f"{count_entries(cache.dir)} of {total} views are there, {stored} of them stored by this process")
    print(
        f"{cache.dir}: {count_entries(cache.dir)} of {total} views are there, {stored} of them new, "
        f"{in_words(used_bytes(cache.dir))} ({used_bytes(cache.dir)} bytes)"
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
