"""Name of the running program, for usage lines."""

from __future__ import annotations

import os
import sys


def program(command: str = "", started: str | None = None) -> str:
    """Return how a command was started: by the console script, by `python -m freqkd`, or by a script in tools/.

    Args:
        command: its name; empty: the program that lists all commands.
        started: the file that was started; None: this process's.

    >>> program("train", "/usr/bin/freqkd"), program("train", "freqkd/__main__.py"), program("train", "tools/train.py")
    ('freqkd train', 'python -m freqkd train', 'train.py')
    """
    name = os.path.basename(sys.argv[0] if started is None else started)
    if name.endswith(".py") and name != "__main__.py":
        return name
    start = "freqkd" if name in ("freqkd", "freqkd.exe") else "python -m freqkd"
    return f"{start} {command}".strip()
