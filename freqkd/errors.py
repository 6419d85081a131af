"""Whose fault an error is: what a user can cause is told in one line, what he cannot keeps its traceback."""

from __future__ import annotations

import dis
import errno
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

TRACEBACK = "FREQKD_TRACEBACK"
EPILOG = f"A wrong input is told in one line; set {TRACEBACK}=1 to see where it came from."
FAULT = 70  # the exit code of a fault of this package, as sysexits.h counts; 1 is a wrong input
LONGEST = 1000  # characters of a message; beyond them libraries list whole configs and search paths

_HERE = Path(__file__).resolve().parent
_OURS = (f"{_HERE}{os.sep}", f"{_HERE.parent / 'tools'}{os.sep}")
_SITE = f"{os.sep}site-packages{os.sep}"
# Who only computes or only passes on, beside the standard library: their caller answers for what they raise.
_COMPUTING = tuple(f"{_SITE}{name}{os.sep}" for name in ("torch", "torchvision", "numpy", "yapf"))
_STANDARD = f"{Path(os.__file__).resolve().parent}{os.sep}"
_MACHINE = (OSError, MemoryError, torch.OutOfMemoryError)
# Said by `raise` in this package; anything else that comes out of it, nobody meant.
_WORDED = (ValueError, ImportError, NotImplementedError)
_WORKER = re.compile(r"^Caught (\w+) in (DataLoader worker process \d+|[\w ]+)\.\s+Original Traceback", re.S)
# What torch says of the machine in a plain RuntimeError.
_REFUSED = re.compile(
    r"out of memory|can't allocate memory|not enough memory|PytorchStreamWriter|inline_container|iostream error|"
    r"shared memory|Too many open files|No space left|Read-only file system",
    re.I,
)
_WRITING = re.compile(r"PytorchStreamWriter|inline_container|iostream error")
_CURES = {
    errno.ENOSPC: "free some space, or name another folder",
    errno.EDQUOT: "free some space, or name another folder",
    errno.EROFS: "name a folder that can be written",
    errno.EACCES: "change its permissions, or name another",
    errno.EPERM: "change its permissions, or name another",
    errno.EMFILE: "raise the limit (ulimit -n), or lower num_workers",
    errno.ENAMETOOLONG: "name a shorter one",
}


@dataclass(frozen=True)
class Place:
    """Where an error was raised."""

    file: str
    line: int
    said: bool  # whether a `raise` stands there, rather than an operation that failed

    @property
    def is_ours(self) -> bool:
        """Whether it lies in this package or in one of its tools."""
        return self.file.startswith(_OURS)

    def __str__(self) -> str:
        return f"{self.file.split(_SITE)[-1]}, line {self.line}"


def _is_raise(frame_code: object, instruction: int) -> bool:
    code = getattr(frame_code, "co_code", b"")
    return 0 <= instruction < len(code) and dis.opname[code[instruction]] == "RAISE_VARARGS"


def place_of(error: BaseException) -> Place | None:
    """Return the innermost place of an error that is not in a library that only computes; None where there is none."""
    if worker := _WORKER.match(str(_text(error))):
        return _place_in_worker(str(_text(error))[worker.end() :])
    found = None
    step = error.__traceback__
    while step is not None:
        code = step.tb_frame.f_code
        file = os.path.abspath(code.co_filename)
        if not _computes(file):
            found = Place(file, step.tb_lineno, step.tb_next is None and _is_raise(code, step.tb_lasti))
        step = step.tb_next
    return found


def _computes(file: str) -> bool:
    return any(part in file for part in _COMPUTING) or (file.startswith(_STANDARD) and _SITE not in file)


def _place_in_worker(text: str) -> Place | None:
    """Read the place in the traceback that a process of a DataLoader hands over as text."""
    found = None
    for file, line, source in re.findall(r'File "([^"]+)", line (\d+), in [^\n]*\n\s*([^\n]*)', text):
        if not _computes(file):
            found = Place(file, int(line), source.startswith("raise"))
    return found


def _text(error: BaseException) -> object:
    """A KeyError's own text is the repr of its argument."""
    return error.args[0] if isinstance(error, KeyError) and error.args else error


def root_of(error: BaseException) -> BaseException:
    """Return what an error repeats: libraries catch an error and raise another one with its words in it.

    >>> try:
    ...     try:
    ...         int("x")
    ...     except ValueError as first:
    ...         raise TypeError(f"in a class: {first}")
    ... except TypeError as second:
    ...     type(root_of(second)).__name__
    'ValueError'
    """
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    own = place_of(error)
    if before is None or (own is not None and own.is_ours and own.said):
        return error
    return root_of(before) if str(_text(before)) in str(_text(error)) else error


def is_users(error: BaseException) -> bool:
    """Whether a user can cause an error, by what he names in a config, on a command line or on a disk.

    These are: what this package raises with words of its own; what the machine refuses (files, memory); and what other
    packages raise while they build or run what a config names. An operation of this package that fails is its own fault.
    """
    error = root_of(error)
    if isinstance(error, _MACHINE) or (isinstance(error, RuntimeError) and _REFUSED.search(str(error))):
        return True
    place = place_of(error)
    if place is None:
        return isinstance(error, _WORDED)
    return not place.is_ours or (place.said and isinstance(error, _WORDED))


def one_line(error: BaseException) -> str:
    """Return an error's message in one line, with its kind and place where another package words it.

    >>> one_line(ValueError("tau must be above 0,\\ngot -1"))
    'tau must be above 0, got -1'
    """
    place = place_of(error)
    text = str(_text(error))
    kind = type(error).__name__
    if worker := _WORKER.match(text):
        kind = worker[1]
        last = [line for line in text.splitlines() if re.match(r"[\w.]+: ", line)]
        text = last[-1].partition(": ")[2] if last else text
    text = text.split("\nException raised from ")[0].split("\nTraceback (most recent call last)")[0]
    text = " ".join(text.split())
    if len(text) > LONGEST:
        text = f"{text[: LONGEST * 3 // 4]} [...] {text[-LONGEST // 4 :]}"
    if isinstance(error, OSError) and error.strerror:
        named = "" if error.filename is None else f": {error.filename}"
        return f"{error.strerror}{named}; {_CURES.get(error.errno or 0, 'check that path')}"
    if isinstance(error, RuntimeError) and _WRITING.search(text):
        return f"a file could not be written whole ({text}); the disk is full, or the folder cannot be written"
    if place is None or place.is_ours:
        return text if isinstance(error, _WORDED) or not text else f"{kind}: {text}"
    return f"{kind}: {text or 'no message'} (raised in {place})"


@contextmanager
def worded(slot: str, *, built: bool = False) -> Iterator[None]:
    """Word what other packages raise while they build or run what `slot` of a config names.

    Args:
        slot: how the message begins.
        built: whether the block does nothing but build an object of the options that the slot gives: what an operation of
            this package cannot work with there, the user gave.

    Raises:
        ValueError: in place of any error that is the user's and that this package has not worded.

    >>> with worded("model.student"):  # doctest: +ELLIPSIS
    ...     {}.update(3)
    Traceback (most recent call last):
    ...
    ValueError: model.student: TypeError: 'int' object is not iterable (raised in ..., line 2)
    """
    try:
        yield
    except Exception as error:
        place = place_of(error)
        said = place is not None and place.is_ours and place.said and isinstance(error, _WORDED)
        if said or not (built or is_users(error)):
            raise
        raise ValueError(f"{slot}: {one_line(error)}") from error


def run_tool(main: Callable[[Sequence[str] | None], None], arguments: Sequence[str] | None = None) -> int:
    """Run a tool's main and return its exit code.

    Wrong input ends in one line on standard error and exit code 1. A fault of this package keeps its traceback, says
    so, and ends with 70. With FREQKD_TRACEBACK=1 every error is raised as it is.
    """
    if os.environ.get(TRACEBACK):
        main(arguments)
        return 0
    try:
        main(arguments)
    except KeyboardInterrupt:
        print("interrupted; run it again to go on (train.py: with --resume)", file=sys.stderr)
        return 130
    except Exception as error:
        if is_users(error):
            print(f"error: {one_line(error)} (set {TRACEBACK}=1 to see where it came from)", file=sys.stderr)
            return 1
        traceback.print_exc()
        print(
            f"This is a fault of freqkd, not of your input: please report it with the lines above "
            f"(command: {' '.join(sys.argv)})",
            file=sys.stderr,
        )
        return FAULT
    return 0
