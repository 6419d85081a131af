"""Generated files: each says the checksum of its text, so that changes made by hand are not overwritten."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path

from freqkd.utils.files import write_whole

HEADER = re.compile(r"# Written by freqkd, checksum ([0-9a-f]{8}): .*\n")
BEFORE, SHOWN = 40, 80  # characters of a line in a message: before its first difference, in all


def stamp(text: str) -> str:
    """Return the text of a Python file below a line with its checksum.

    >>> print(stamp("a = 1"))
    # Written by freqkd, checksum b5bc1ffd: what is changed below is not overwritten.
    a = 1
    """
    return f"# Written by freqkd, checksum {_checksum(text)}: what is changed below is not overwritten.\n{text}"


def write_files(files: Mapping[Path, str], overwrite: bool = False, keep: bool = False) -> list[Path]:
    """Write all files, or none; return those that were kept.

    A file that stands there as it was generated is replaced. One that was changed by hand is kept where the same would be
    generated again, so that the changes are the only difference, and `keep` is set.

    Args:
        files: texts by path.
        overwrite: replace files that were changed by hand, too.
        keep: see above; else such a file is refused.

    Raises:
        ValueError: a file that was changed, or states no checksum and differs, would be replaced.
    """
    kept, refused = [], []
    for path, text in files.items():
        if overwrite or not path.exists():
            continue
        old = path.read_text("utf-8", errors="replace")
        if old == text or _is_as_written(old):
            continue
        if keep and _stated(old) is not None and _stated(old) == _stated(text):
            kept.append(path)
        else:
            refused.append(f"{path} ({_difference(old, text)})")
    if refused:
        raise ValueError(
            "--out must not have files that were changed since freqkd wrote them, or that state no checksum, got "
            f"{', '.join(refused)}; pass --overwrite to write them anew, or name another folder"
        )
    for path, text in files.items():
        if path not in kept:
            with write_whole(path) as file:
                file.write(text.encode())
    return kept


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _stated(text: str) -> str | None:
    """Return the checksum that a file states of itself."""
    found = HEADER.match(text)
    return found[1] if found else None


def _is_as_written(text: str) -> bool:
    return _stated(text) == _checksum(HEADER.sub("", text, count=1))


def _difference(old: str, new: str) -> str:
    """Return the first lines that differ, below the checksums.

    >>> _difference("a = 1\\nb = 2", "a = 1\\nb = 3")
    "its line 2 is 'b = 2', and would be 'b = 3'"
    """
    lines = zip_longest(*(HEADER.sub("\n", text, count=1).splitlines() for text in (old, new)), fillvalue="")
    differing = ((number, pair) for number, pair in enumerate(lines, 1) if pair[0] != pair[1])
    number, pair = next(differing, (1, ("", "")))  # none: only the end of the last line differs
    shared = next((place for place, (a, b) in enumerate(zip(*pair)) if a != b), min(map(len, pair)))
    start = max(0, shared - BEFORE)
    mine, other = (line[start : start + SHOWN].strip() for line in pair)
    return f"its line {number} is {mine!r}, and would be {other!r}"
