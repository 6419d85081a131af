"""The cache's files: one for each view, half precision behind a small header, whole or not there at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from torch import Tensor

_MAGIC = b"freqkd-maps 1\n"
_BLOCK = 64  # values start at a multiple of this many bytes
_PAGE = 4096  # what a file occupies is a multiple of this, on most disks
_STALE = 3600.0  # seconds after which the draft of a process that was killed is removed
Shapes = dict[str, list[tuple[int, ...]]]


@dataclass(frozen=True)
class Entry:
    """One stored view: size of the padded image, checksum of its pixels, shapes `(C, H, W)` by tap, and all values."""

    size: tuple[int, int]
    pixels: int
    shapes: Shapes
    values: np.memmap[Any, np.dtype[np.float16]]

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


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a draft beside `path` that takes its place when all is written; an error leaves nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_entry(path: Path, size: tuple[int, int], pixels: int, maps: Mapping[str, Sequence[Tensor]]) -> None:
    """Write one view's maps `(C, H, W)`, which are in half precision already, in the order of their taps' names."""
    maps = {tap: maps[tap] for tap in sorted(maps)}
    shapes = {tap: [list(value.shape) for value in values] for tap, values in maps.items()}
    header = json.dumps(dict(size=size, pixels=pixels, shapes=shapes)).encode()
    start = len(_MAGIC) + 4 + len(header)
    with replacing(path) as file:
        file.write(_MAGIC + len(header).to_bytes(4, "little") + header)
        file.write(b"\0" * (-start % _BLOCK))
        for values in maps.values():
            for value in values:
                file.write(value.contiguous().cpu().numpy().data)


def read_entry(path: Path) -> Entry | None:
    """Map one view's file into memory; None where it is not there, or not whole."""
    try:
        with open(path, "rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                return None
            length = int.from_bytes(file.read(4), "little")
            header = json.loads(file.read(length))
            shapes = {tap: [tuple(shape) for shape in found] for tap, found in header["shapes"].items()}
            count = sum(int(np.prod(shape)) for found in shapes.values() for shape in found)
            start = len(_MAGIC) + 4 + length
            start += -start % _BLOCK
            if os.fstat(file.fileno()).st_size != start + 2 * count:
                return None
            values = np.memmap(file, np.float16, "r", start, (count,))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    return Entry(tuple(header["size"]), header["pixels"], shapes, values)


def count_entries(folder: Path) -> int:
    """Count the views in a cache; drafts that a killed process left long ago are removed."""
    found = 0
    for shard in (folder / "maps").glob("*"):
        for file in os.scandir(shard):
            found += file.name.endswith(".half")
            with suppress(FileNotFoundError):  # another process has just finished it
                if file.name.endswith(".part") and time.time() - file.stat().st_mtime > _STALE:
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
