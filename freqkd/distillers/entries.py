"""The cache's files: one for each view, half precision behind a small header, whole or not there at all, with checksums."""

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
from torch import Tensor

from freqkd.files import DRAFT, write_whole

_MAGIC = b"freqkd-maps 2\n"
_BLOCK = 64  # values start at a multiple of this many bytes
_PAGE = 4096  # what a file occupies is a multiple of this, on most disks
_STALE = 3600.0  # seconds after which the draft of a process that was killed is removed
Shapes = dict[str, list[tuple[int, ...]]]


@dataclass(frozen=True)
class Entry:
    """One stored view: size of the padded image, checksum of its pixels, shapes `(C, H, W)` by tap, and all values.

    `checksum` (crc32) is of the values as they were written; they are compared where they are read, not before.
    """

    size: tuple[int, int]
    pixels: int
    shapes: Shapes
    checksum: int
    values: np.memmap[Any, np.dtype[np.float16]]

    def read_into(self, row: np.ndarray[Any, np.dtype[np.float16]]) -> bool:
        """Copy the values; False where they are not what was written."""
        np.copyto(row, self.values)
        return zlib.crc32(row.data) == self.checksum

    @property
    def disk_bytes(self) -> int:
        """What the file occupies."""
        return occupied(self.values.nbytes)


def occupied(values: int) -> int:
    """Return what a file with so many bytes of values occupies on a disk with pages of 4 KiB.

    >>> occupied(1), occupied(4000)
    (4096, 8192)
    """
    header = 512  # about what names and shapes take
    return -(-(header + values) // _PAGE) * _PAGE


def entry_path(folder: Path, index: int, view: int) -> Path:
    """Return where a view lies; a thousand images share a folder.

    >>> entry_path(Path("cache"), 12345, 2).as_posix()
    'cache/maps/00012/12345_2.half'
    """
    return folder / "maps" / f"{index // 1000:05d}" / f"{index}_{view}.half"


def write_entry(path: Path, size: tuple[int, int], pixels: int, maps: Mapping[str, Sequence[Tensor]]) -> None:
    """Write one view's maps `(C, H, W)`, which are in half precision already, in the order of their taps' names."""
    maps = {tap: maps[tap] for tap in sorted(maps)}
    shapes = {tap: [list(value.shape) for value in values] for tap, values in maps.items()}
    arrays = [value.contiguous().cpu().numpy() for values in maps.values() for value in values]
    checksum = 0
    for array in arrays:
        checksum = zlib.crc32(array.data, checksum)
    header = json.dumps(dict(size=size, pixels=pixels, shapes=shapes, checksum=checksum)).encode()
    start = len(_MAGIC) + 8 + len(header)
    with write_whole(path) as file:
        file.write(_MAGIC + len(header).to_bytes(4, "little") + zlib.crc32(header).to_bytes(4, "little") + header)
        file.write(b"\0" * (-start % _BLOCK))
        for array in arrays:
            file.write(array.data)


def read_entry(path: Path) -> Entry | None:
    """Map one view's file into memory; None where it is not there, not whole, or its header is not what was written."""
    try:
        with open(path, "rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                return None
            length, checksum = (int.from_bytes(file.read(4), "little") for _ in range(2))
            text = file.read(length)
            if not text or zlib.crc32(text) != checksum:
                return None
            header = json.loads(text)
            shapes = {tap: [tuple(shape) for shape in found] for tap, found in header["shapes"].items()}
            count = sum(int(np.prod(shape)) for found in shapes.values() for shape in found)
            start = len(_MAGIC) + 8 + length
            start += -start % _BLOCK
            if os.fstat(file.fileno()).st_size != start + 2 * count:
                return None
            values = np.memmap(file, np.float16, "r", start, (count,))
    except FileNotFoundError:
        return None
    return Entry(tuple(header["size"]), header["pixels"], shapes, header["checksum"], values)


def count_entries(folder: Path) -> int:
    """Count the views in a cache; drafts that a killed process left long ago are removed."""
    found = 0
    for shard in (folder / "maps").glob("*"):
        for file in os.scandir(shard):
            found += file.name.endswith(".half")
            with suppress(FileNotFoundError):  # another process has just finished it
                if file.name.endswith(DRAFT) and time.time() - file.stat().st_mtime > _STALE:
                    Path(file.path).unlink()
    return found


def used_bytes(folder: Path) -> int:
    """Add up the sizes of a cache's files."""
    return sum(file.stat().st_size for file in (folder / "maps").glob("*/*.half"))


def free_bytes(folder: Path) -> int:
    """Return how much the disk of a folder, which need not exist yet, has left."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def in_words(size: float) -> str:
    """Word a number of bytes.

    >>> in_words(11_468_800), in_words(999)
    ('11.5 MB', '999 B')
    """
    units = ["B", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.0f} B" if units[0] == "B" else f"{size:.1f} {units[0]}"
