"""Teacher whose maps of fixed views are computed once, kept on disk in half precision, and read from then on."""

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

from freqkd.datasets.fixed_views import VIEW, Source, View
from freqkd.teacher.entries import (
    Entry,
    count_entries,
    disk_bytes,
    entry_path,
    free_bytes,
    in_words,
    read_entry,
    write_entry,
)
from freqkd.teacher.manifest import check_manifest, make_key, read_manifest, write_manifest
from freqkd.teacher.preprocessing import padded_size
from freqkd.teacher.teacher import Maps, Teacher
from freqkd.utils.checkpoints import CheckpointError
from freqkd.utils.checks import check_whole

_HALF_MAX = 65504


class CachedTeacher:
    """A `Teacher` and a folder with its maps of the views of `freqkd.FixedViews`.

    Whatever is not defined here is the teacher's. Stored values are rounded to half precision, and a view's first visit uses
    the rounded values too, so every visit gives the same numbers. Several workers, processes and machines may fill one
    folder. A view whose stored values are no longer what was written (a failing disk) is computed again, with a warning
    that names the file.

    Config::

        teacher=dict(config=..., checkpoint=..., cache=dict(dir='work_dirs/teacher-cache/NAME', views=4))

    Args:
        teacher: the teacher that runs for views that are not stored yet.
        dir: folder of the cache; one that was made for anything else is refused.
        views: K, as in `freqkd.FixedViews`.

    Raises:
        ValueError: `dir` or `views` is wrong; a sample is not a fixed view, a batch has images of several sizes, a map has
            not one row for each image or does not fit half precision, or the disk is too small.
        CheckpointError: the folder was made for another teacher, pipeline, tap or size, a view is no longer the same, or the
            disk gives back other values than were written, twice.
    """

    def __init__(self, teacher: Teacher, dir: str | os.PathLike[str], views: int) -> None:
        if not dir or not isinstance(dir, (str, os.PathLike)):
            raise ValueError(f"teacher.cache.dir must name a folder, got {dir!r}")
        check_whole("teacher.cache.views", views, 1)
        self.teacher = teacher
        self.dir = Path(dir)
        self.views = views
        self._source: Source | None = None  # where the views come from, once the folder is found to be made for them
        self._readers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="teacher-cache")

    def __getattr__(self, name: str) -> Any:
        if name == "teacher":  # while a copy is made
            raise AttributeError(name)
        return getattr(self.teacher, name)

    def __deepcopy__(self, memo: dict[int, Any]) -> CachedTeacher:
        return self

    def prepare(self, paths: Sequence[str], preprocessor: nn.Module) -> None:
        """See `Teacher.prepare`.

        Raises:
            ValueError: there are no paths, so that nothing would be cached.
        """
        self.teacher.prepare(paths, preprocessor)
        if not paths:
            raise ValueError(
                "teacher.cache needs a term that taps the teacher, got terms that run it themselves; leave out teacher.cache"
            )
        self._source = None

    def start(self, inputs: Tensor, data_samples: Sequence[Any] | None) -> Callable[[], Maps]:
        """Begin to read the maps of a batch; the teacher runs for views that are not stored yet.

        Args:
            inputs: images as `normalize` gives them, (N, C, H, W).
            data_samples: their samples, which say which views they are; None: images that are not views, for which the
                teacher runs.

        Returns:
            A function that waits for the files and returns `{path: maps}`, in the precision of `inputs`.
        """
        if data_samples is None:
            return self.teacher.start(inputs, None)
        entries = self.fill(inputs, data_samples)
        if any(entry.shapes != entries[0].shapes for entry in entries):
            raise CheckpointError(
                f"teacher cache {self.dir}: views of one size have maps of several shapes; delete the folder"
            )
        # Read in the background: the disk works while the student does.
        rows = torch.empty(len(entries), entries[0].count, dtype=torch.float16, pin_memory=inputs.is_cuda)
        jobs = [self._readers.submit(entry.read_into, row.numpy()) for entry, row in zip(entries, rows)]

        def collect() -> Maps:
            damaged = [place for place, job in enumerate(jobs) if not job.result()]
            if damaged:
                for place in damaged:
                    _remove(entries[place].path)
                again = self.fill(inputs, data_samples, len(data_samples))
                for place in damaged:
                    if not again[place].read_into(rows[place].numpy()):
                        raise CheckpointError(
                            f"teacher cache: {again[place].path} does not hold the values that were just written to it; check "
                            "the disk, or name a dir on another in teacher.cache"
                        )
            return _split(rows.to(inputs.device, non_blocking=True), entries[0], self.paths, inputs.dtype)

        return collect

    def fill(self, inputs: Tensor, data_samples: Sequence[Any], at_once: int = 1) -> list[Entry]:
        """Store what is missing of a batch, and return the entries of all its views; arguments as in `start`.

        The teacher is shown `at_once` images at least, some of them again: the last bits of its maps depend on their number.
        """
        views = [self._view_of(sample) for sample in data_samples]
        size = (int(inputs.shape[-2]), int(inputs.shape[-1]))
        for view in views:
            alone = padded_size(self.preprocessor, view.shape)
            if alone != size:
                raise ValueError(
                    "all images of a batch must have the same size where the teacher is cached, because padding changes its "
                    f"maps: image {view.image} is {alone[0]}x{alone[1]} on its own, its batch {size[0]}x{size[1]}; crop or "
                    "pad to one size in the pipeline, or set the batch size to 1"
                )
        source = views[0].source
        if {view.source for view in views} != {self._source or source}:
            raise ValueError(
                "all images must come from one freqkd.FixedViews where the teacher is cached: put it around the "
                "ConcatDataset, not inside"
            )
        key = self.check(source) if self._source is None else {}
        found = [self._get(view, size) for view in views]
        missing = [place for place, entry in enumerate(found) if entry is None]
        shown = [*missing, *missing[:1] * (at_once - len(missing))]
        maps = self._run_teacher(inputs[shown], [data_samples[place] for place in shown]) if missing else {}
        if self._source is None:
            counts = [entry.count for entry in found if entry is not None]
            counts.append(sum(value[0].numel() for tapped in maps.values() for value in tapped))
            self._write_manifest(key, disk_bytes(counts[0]))
            self._source = source
        for row, place in enumerate(missing):
            rows = {path: [value[row] for value in tapped] for path, tapped in maps.items()}
            write_entry(entry_path(self.dir, *views[place][:2]), size, views[place].pixels, rows)
            found[place] = self._get(views[place], size)
        entries = [entry for entry in found if entry is not None]
        if len(entries) < len(views):
            raise CheckpointError(
                f"files of teacher cache {self.dir} were deleted during the run; do not delete or move them while a run uses "
                "the folder"
            )
        return entries

    def check(self, source: Source) -> dict[str, Any]:
        """Return the manifest's key that this run needs, for views of a source.

        Raises:
            CheckpointError: the folder was made for something else, or its manifest is damaged.
        """
        key = make_key(self.teacher, source)
        manifest = read_manifest(self.dir)
        if manifest is not None:
            check_manifest(self.dir, manifest, key)
        return key

    def has(self, image: int, view: int) -> bool:
        """Whether a view is stored, whole; whether it is the right one shows when it is read."""
        return read_entry(entry_path(self.dir, image, view)) is not None

    def _view_of(self, sample: Any) -> View:
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

    def _get(self, view: View, size: tuple[int, int]) -> Entry | None:
        """Return the entry of a view; None where there is none.

        Raises:
            CheckpointError: the entry is of other pixels, or of another size.
        """
        entry = read_entry(entry_path(self.dir, view.image, view.view))
        if entry is not None and (entry.pixels, entry.size) != (view.pixels, size):
            sizes = f"another size ({entry.size} in the cache, {size} in this run)"
            what = "other pixels" if entry.size == size else sizes
            raise CheckpointError(
                f"teacher cache {self.dir}: view {view.view} of image {view.image} has {what} than when it was stored: the "
                "images or the packages that read them have changed, or a transform draws from a random generator of its "
                "own; delete the cache, or leave that transform out"
            )
        return entry

    def _run_teacher(self, inputs: Tensor, data_samples: Sequence[Any]) -> Maps:
        """Run the teacher in the precision that the manifest says, whatever precision the student trains in."""
        with torch.autocast(inputs.device.type, enabled=False):
            return _rounded(self.teacher.extract(inputs, data_samples, self.paths), len(inputs))

    def _write_manifest(self, key: Mapping[str, Any], bytes_each: int) -> None:
        """Say what the disk must hold, check that it can, and write the manifest before the first entry."""
        total = key["images"] * key["views"]
        there, free = count_entries(self.dir), free_bytes(self.dir)
        needed = max(0, total - there) * bytes_each
        print_log(
            f"teacher cache {self.dir}: {in_words(bytes_each)} a view, {in_words(total * bytes_each)} for {key['views']} views "
            f"of {key['images']} images; {there} of {total} views are stored, {in_words(needed)} to come, "
            f"{in_words(free)} free",
            "current",
        )
        if needed > free:
            raise ValueError(
                f"teacher.cache.dir must lie on a disk with {in_words(needed)} free, got {in_words(free)} at {self.dir}; name "
                "another dir, or take fewer views, smaller images or a tap with fewer channels"
            )
        write_manifest(self.dir, key)
        written = read_manifest(self.dir)
        assert written is not None
        check_manifest(self.dir, written, key)  # another process may have been first, and for something else


def _remove(file: Path) -> None:
    """Delete a file whose values are not what was written."""
    file.unlink(missing_ok=True)
    print_log(
        f"teacher cache: the values in {file} are not those that were written (checksum); they are computed again. Check the "
        "disk",
        "current",
        logging.WARNING,
    )


def _rounded(maps: Mapping[str, Sequence[Tensor]], count: int) -> Maps:
    """Round maps to half precision.

    Raises:
        ValueError: a map has not one row for each image, does not hold floating point numbers, or does not fit.
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
    sizes = [int(np.prod(shape)) for shape in entry.shapes.values()]
    for (name, shape), values in zip(entry.shapes.items(), rows.split(sizes, dim=1)):
        maps[name.rpartition("/")[0]].append(values.reshape(len(rows), *shape).to(dtype))
    return maps
