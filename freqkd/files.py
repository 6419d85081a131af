"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

DRAFT = ".part"  # how the names of unfinished files end; they start with a dot


@contextmanager
def write_whole(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a draft beside `path` that takes its place when all is written; an error leaves nothing, and an old file as it was.

    Raises:
        OSError: the folder cannot be made or written, or the disk is full.

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
