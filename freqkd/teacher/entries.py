"""Files of the cache: the maps of one view in half precision, as safetensors, written whole and with checksums."""

from __future__ import annotations

import json
import os
import shutil
import time
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from freqkd.utils.files import DRAFT, write_whole

_ENDING = ".safetensors"
_PAGE = 4096  # the size of a file on the disk is a multiple of this, on most disks
_STALE = 3600.0  # seconds after which the draft of a process that was killed is removed


@dataclass(frozen=True)
class Entry:
    """The file of one view.

    Attributes:
        path: the file.
        size: height and width of the padded image.
        pixels: checksum of its pixels.
        shapes: (C, H, W) of each map by its name, "TAP/INDEX".
        checksum: crc32 of the values as they were written; compared by `read_into`, not before.
        file: the opened file, whose values are read when they are copied.
    """

    path: Path
    size: tuple[int, int]
    pixels: int
    shapes: dict[str, tuple[int, ...]]
    checksum: int
    file: Any

    def read_into(self, row: np.ndarray[Any, np.dtype[np.float16]]) -> bool:
        """Copy the values of all maps, one after the other; False where they are not what was written."""
        values = self.file.get_tensors()
        np.concatenate([values[name].numpy().reshape(-1) for name in sorted(values)], out=row)
        return zlib.crc32(row.data) == self.checksum

    @property
    def count(self) -> int:
        """How many values there are."""
        return sum(int(np.prod(shape)) for shape in self.shapes.values())


def disk_bytes(count: int) -> int:
    """Return what a file of so many values occupies on a disk with pages of 4 KiB.

    >>> disk_bytes(1), disk_bytes(2000)
    (4096, 8192)
    """
    header = 512  # about what names and shapes take
    return -(-(header + 2 * count) // _PAGE) * _PAGE


def entry_path(folder: Path, image: int, view: int) -> Path:
    """Return the file of a view; a thousand images share a folder.

    >>> entry_path(Path("cache"), 12345, 2).as_posix()
    'cache/maps/00012/12345_2.safetensors'
    """
    return folder / "maps" / f"{image // 1000:05d}" / f"{image}_{view}{_ENDING}"


def write_entry(path: Path, size: tuple[int, int], pixels: int, maps: Mapping[str, Sequence[Tensor]]) -> None:
    """Write the maps (C, H, W) of one view, which are in half precision already, in the order of their names."""
    named = {f"{tap}/{index:03d}": value for tap, values in maps.items() for index, value in enumerate(values)}
    arrays = {name: named[name].contiguous().cpu().numpy() for name in sorted(named)}
    checksum = 0
    for array in arrays.values():
        checksum = zlib.crc32(array.data, checksum)
    shapes = {name: array.shape for name, array in arrays.items()}
    facts = json.dumps(dict(size=size, pixels=pixels, shapes=shapes, checksum=checksum))
    with write_whole(path) as file:
        file.write(save(arrays, metadata=dict(view=f"{zlib.crc32(facts.encode())} {facts}")))


def read_entry(path: Path) -> Entry | None:
    """Open the file of a view; None where it is not there, not whole, or its header is not what was written."""
    try:
        # "np" would read the file with Python's lock held, and make the training wait for the disk.
        file = safe_open(path, framework="pt")
    except (FileNotFoundError, SafetensorError):
        return None
    checksum, _, text = (file.metadata() or {}).get("view", "").partition(" ")
    if checksum != str(zlib.crc32(text.encode())):
        return None
    facts = json.loads(text)
    shapes = {name: tuple(shape) for name, shape in facts["shapes"].items()}
    return Entry(path, tuple(facts["size"]), facts["pixels"], shapes, facts["checksum"], file)


def count_entries(folder: Path) -> int:
    """Count the views in a cache; drafts that a killed process left long ago are removed."""
    found = 0
    for shard in (folder / "maps").glob("*"):
        for file in os.scandir(shard):
            found += file.name.endswith(_ENDING)
            with suppress(FileNotFoundError):  # another process has just finished it
                if file.name.endswith(DRAFT) and time.time() - file.stat().st_mtime > _STALE:
                    Path(file.path).unlink()
    return found


def used_bytes(folder: Path) -> int:
    """Add up the sizes of a cache's files."""
    return sum(file.stat().st_size for file in (folder / "maps").glob(f"*/*{_ENDING}"))


def free_bytes(folder: Path) -> int:
    """Return how much space is left on the disk of a folder, which need not exist yet."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def in_words(size: float) -> str:
    """Format a number of bytes.

    >>> in_words(11_468_800), in_words(999)
    ('11.5 MB', '999 B')
    """
    units = ["B", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.0f} B" if units[0] == "B" else f"{size:.1f} {units[0]}"
