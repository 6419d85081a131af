"""Files that are written whole or not at all, and folders that can be written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

DRAFT = ".part"  # suffix of unfinished files, whose names start with a dot


@contextmanager
def write_whole(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a draft beside `path` that replaces it at the end of the block; an error deletes the draft and keeps the old file.

    Raises:
        OSError: the folder cannot be created or written, or the disk is full.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with write_whole(Path(folder, "a", "b.txt")) as file:
    ...         _ = file.write(b"whole")
    ...     Path(folder, "a", "b.txt").read_text()
    'whole'
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=DRAFT)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(name, 0o644)
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def check_writable(what: str, path: str | os.PathLike[str], option: str) -> None:
    """Check that a folder can be written, or the nearest folder above it that exists.

    Args:
        what: the folder's name in the message.
        path: the folder.
        option: the argument that names it.

    Raises:
        ValueError: neither can.

    >>> check_writable("work dir", tempfile.gettempdir(), "--work-dir")
    """
    folder = os.path.abspath(path)
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise ValueError(f"{what} {path} is not writable (checked {folder}); name another with {option}")
