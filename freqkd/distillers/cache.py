"""The teacher's answers to fixed views: computed once, kept on disk in half precision, read from then on."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from freqkd.checkpoints import CheckpointError
from freqkd.checks import check_whole
from freqkd.datasets.views import VIEW, Source, View
from freqkd.distillers.entries import (
    Entry,
    count_entries,
    entry_path,
    free_bytes,
    in_words,
    occupied,
    read_entry,
    write_entry,
)
from freqkd.distillers.manifest import check_manifest, make_key, read_manifest, write_manifest
from freqkd.distillers.preprocessing import padded_size

_HALF_MAX = 65504
Maps = dict[str, list[Tensor]]


class TeacherCache:
    """What a teacher gives for the views of `freqkd.FixedViews`.

    Stored values are rounded to half precision, and a view's first visit uses the rounded values too, so every visit gives
    the same numbers. Several workers, processes and machines may fill one folder. A view whose stored values are no longer
    what was written (a failing disk) is computed anew, with a warning that names the file.

    Config::

        teacher=dict(config=..., checkpoint=..., cache=dict(dir='work_dirs/teacher-cache/NAME', views=4))

    Args:
        dir: folder of the cache; one that was made for anything else is refused.
        views: K, as in `freqkd.FixedViews`.

    Raises:
        ValueError: a sample is no fixed view, a batch has images of several sizes, a map is no map per image or does not
            fit half precision, or the disk is too small.
        CheckpointError: the folder was made for another teacher, pipeline, tap or size, a view is no longer the same, or the
            disk gives back other values than were written, twice.
    """

    def __init__(self, dir: str | os.PathLike[str], views: int) -> None:
        if not dir or not isinstance(dir, (str, os.PathLike)):
            raise ValueError(f"teacher.cache.dir must name a folder, got {dir!r}")
        check_whole("teacher.cache.views", views, 1)
        self.dir = Path(dir)
        self.views = views
        self._key: dict[str, Any] = {}
        self._source: Source | None = None
        self._admitted: list[str] = []  # taps that the folder was found to be made for
        self._readers: ThreadPoolExecutor | None = None

    def recall(
        self,
        teacher: Any,
        images: Tensor,
        data_samples: Sequence[Any],
        paths: Sequence[str],
        preprocessor: nn.Module,
    ) -> Callable[[], Maps]:
        """Begin to read what the modules at `paths` give for a batch; the teacher runs for views that are not there yet.

        Args:
            teacher: the teacher's holder.
            images: the batch, normalised the teacher's way.
            data_samples: its samples, which name their views.
            paths: tapped modules of the teacher.
            preprocessor: what padded the images.

        Returns:
            A function that waits for the files and returns `{path: maps}`, in the precision of `images`.
        """
        arguments = teacher, images, data_samples, paths, preprocessor
        entries = self.fill(*arguments)
        first = entries[0]
        if any(list(entry.shapes.items()) != list(first.shapes.items()) for entry in entries):
            raise CheckpointError(
                f"teacher cache {self.dir}: views of one size have maps of several shapes; delete the folder"
            )
        # Read in the background: the disk works while the student does.
        rows = torch.empty(len(entries), len(first.values), dtype=torch.float16, pin_memory=images.is_cuda)
        self._readers = self._readers or ThreadPoolExecutor(max_workers=4, thread_name_prefix="teacher-cache")
        jobs = [self._readers.submit(entry.read_into, row.numpy()) for entry, row in zip(entries, rows)]

        def collect() -> Maps:
            damaged = [place for place, job in enumerate(jobs) if not job.result()]
            if damaged:
                files = [self._path(self._identify(data_samples[place])) for place in damaged]
                self._drop(files)
                again = self.fill(*arguments)
                for place, file in zip(damaged, files):
                    if not again[place].read_into(rows[place].numpy()):
                        raise CheckpointError(
                            f"teacher cache: {file} does not hold the values that were just written to it; check the disk, or "
                            "name a dir on another in teacher.cache"
                        )
            return _split(rows.to(images.device, non_blocking=True), first, paths, images.dtype)

        return collect

    @staticmethod
    def _drop(files: Sequence[Path]) -> None:
        """Remove entries whose values are not what was written."""
        for file in files:
            file.unlink(missing_ok=True)
            print_log(
                f"teacher cache: the values in {file} are not those that were written (checksum); they are computed anew. "
                "Check the disk",
                "current",
                logging.WARNING,
            )

    def fill(
        self,
        teacher: Any,
        images: Tensor,
        data_samples: Sequence[Any],
        paths: Sequence[str],
        preprocessor: nn.Module,
    ) -> list[Entry]:
        """Store what is missing of a batch, and return the entries of all its views; arguments as in `recall`."""
        views = [self._identify(sample) for sample in data_samples]
        size = (int(images.shape[-2]), int(images.shape[-1]))
        for view in views:
            own = padded_size(preprocessor, view.shape)
            if own != size:
                raise ValueError(
                    "all images of a batch must have the same size where the teacher is cached, because padding changes its "
                    f"maps: image {view.image} is {own[0]}x{own[1]} on its own, its batch {size[0]}x{size[1]}; crop or pad "
                    "to one size in the pipeline, or set the batch size to 1"
                )
        is_new = self._open(teacher, views, paths, preprocessor)
        found = [self._find(view, size) for view in views]
        missing = [place for place, entry in enumerate(found) if entry is None]
        if missing:
            samples = [data_samples[place] for place in missing]
            maps = _rounded(self._ask(teacher, images[missing], samples, paths), len(missing))
            if is_new:
                bytes_each = sum(value[0].numel() for values in maps.values() for value in values) * 2
                self._admit(occupied(bytes_each), views[0].source)
            for row, place in enumerate(missing):
                mine = {path: [value[row] for value in values] for path, values in maps.items()}
                write_entry(self._path(views[place]), size, views[place].pixels, mine)
                found[place] = self._find(views[place], size)
        entries = [entry for entry in found if entry is not None]
        if len(entries) < len(views):
            raise CheckpointError(f"teacher cache {self.dir} loses files while it is used; leave it alone during a run")
        if is_new and not missing:
            self._admit(entries[0].disk_bytes, views[0].source)
        return entries

    @staticmethod
    def _ask(teacher: Any, images: Tensor, samples: Sequence[Any], paths: Sequence[str]) -> Maps:
        """Run the teacher in the precision that the manifest says, whatever precision the student trains in."""
        with torch.autocast(images.device.type, enabled=False):
            found: Maps = teacher.extract(images, samples, sorted(paths))
        return found

    def check(self, teacher: Any, source: Source, paths: Sequence[str], preprocessor: nn.Module) -> dict[str, Any]:
        """Return what this run needs its cache to be made for; arguments as in `recall`, with where the views come from.

        Raises:
            CheckpointError: the folder was made for something else, or its manifest is damaged.
        """
        key = make_key(teacher, paths, source, preprocessor)
        manifest = read_manifest(self.dir)
        if manifest is not None:
            check_manifest(self.dir, manifest, key)
        return key

    def has(self, index: int, view: int) -> bool:
        """Whether a view is stored, whole; whether it is the right one shows when it is read."""
        return read_entry(entry_path(self.dir, index, view)) is not None

    def _path(self, view: View) -> Path:
        return entry_path(self.dir, view.image, view.view)

    def _identify(self, sample: Any) -> View:
        view = sample.metainfo.get(VIEW)
        if not isinstance(view, View):
            raise ValueError(
                "a cached teacher needs samples that say which view they are: wrap train_dataloader.dataset in "
                f"dict(type='freqkd.FixedViews', dataset=..., views={self.views})"
            )
        if view.source.views != self.views:
            raise ValueError(
                f"teacher.cache.views must be the views of freqkd.FixedViews, {view.source.views}, got {self.views}"
            )
        return view

    def _open(self, teacher: Any, views: Sequence[View], paths: Sequence[str], preprocessor: nn.Module) -> bool:
        """Compare the folder's manifest with what this run needs; True for the first batch."""
        wanted = {view.source for view in views} | {self._source or views[0].source}
        if len(wanted) > 1:
            raise ValueError(
                "all images must come from one freqkd.FixedViews where the teacher is cached: put it around the "
                "ConcatDataset, not inside"
            )
        if self._admitted == sorted(paths):
            return False
        self._key = self.check(teacher, views[0].source, paths, preprocessor)
        return True

    def _admit(self, bytes_each: int, source: Source) -> None:
        """Say what the disk must hold, check that it can, and write the manifest before the first entry."""
        total = source.images * source.views
        there, free = count_entries(self.dir), free_bytes(self.dir)
        needed = max(0, total - there) * bytes_each
        print_log(
            f"teacher cache {self.dir}: {in_words(bytes_each)} a view, {in_words(total * bytes_each)} for {source.views} views "
            f"of {source.images} images; {there} of {total} views are there, {in_words(needed)} to come, "
            f"{in_words(free)} free",
            "current",
        )
        if needed > free:
            raise ValueError(
                f"teacher.cache.dir must lie on a disk with {in_words(needed)} free, got {in_words(free)} at {self.dir}; name "
                "another dir, or take fewer views, smaller images or a tap with fewer channels"
            )
        write_manifest(self.dir, self._key)
        written = read_manifest(self.dir)
        assert written is not None
        check_manifest(self.dir, written, self._key)  # another process may have been first, with something else in mind
        self._source, self._admitted = source, self._key["taps"]

    def _find(self, view: View, size: tuple[int, int]) -> Entry | None:
        """Return a view's entry; None where there is none.

        Raises:
            CheckpointError: the entry is of other pixels, or of another size.
        """
        entry = read_entry(self._path(view))
        if entry is None:
            return None
        if (entry.pixels, entry.size) != (view.pixels, size):
            what = "other pixels" if entry.size == size else f"another size ({entry.size} there, {size} here)"
            raise CheckpointError(
                f"teacher cache {self.dir}: view {view.view} of image {view.image} has {what} than when it was stored: the "
                "images or the packages that read them have changed, or a transform draws from a generator of its own; "
                "delete the cache, or leave that transform out"
            )
        return entry


def _rounded(maps: Mapping[str, Sequence[Tensor]], count: int) -> Maps:
    """Round maps to half precision.

    Raises:
        ValueError: a map is not one per image, holds no floating point numbers, or does not fit.
    """
    halves: Maps = {}
    for path, values in maps.items():
        if not values:
            raise ValueError(
                f"teacher module {path!r} did not run, so there is nothing to cache; tap a module inside it"
            )
        for value in values:
            if not value.is_floating_point() or value.dim() < 2 or len(value) != count:
                raise ValueError(
                    f"teacher module {path!r} must give floating point maps with one row for each of the {count} images to be "
                    f"cached, got {value.dtype} of shape {tuple(value.shape)}; leave out teacher.cache, or tap another module"
                )
            if not bool((value.abs() <= _HALF_MAX).all()):
                raise ValueError(
                    f"the maps of teacher module {path!r} must lie within {_HALF_MAX}, the range of half precision, got "
                    f"{float(value.abs().max()):g}; leave out teacher.cache, or tap another module"
                )
        halves[path] = [value.half() for value in values]
    return halves


def _split(rows: Tensor, entry: Entry, paths: Sequence[str], dtype: torch.dtype) -> Maps:
    """Cut rows of values into maps."""
    maps: Maps = {path: [] for path in paths}
    start = 0
    for path, shapes in entry.shapes.items():
        for shape in shapes:
            stop = start + int(np.prod(shape))
            maps[path].append(rows[:, start:stop].reshape(len(rows), *shape).to(dtype))
            start = stop
    return maps
