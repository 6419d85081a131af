"""Error reports of the tools: one line for a user's error, the traceback for a fault of this package."""

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
HINT = f" (set {TRACEBACK}=1 to see where it came from)"
EPILOG = f"A wrong input is reported in one line; set {TRACEBACK}=1 to see where it came from."
FAULT = 70  # the exit code of a fault of this package, as sysexits.h counts; 1 is a wrong input
LONGEST = 1000  # characters of a message; beyond them libraries list whole configs and search paths

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGE = (f"{_ROOT / 'freqkd'}{os.sep}", f"{_ROOT / 'tools'}{os.sep}")
_SITE = f"{os.sep}site-packages{os.sep}"
# Packages whose errors, like those of the standard library, are attributed to the code that calls them.
_COMPUTING = tuple(f"{_SITE}{name}{os.sep}" for name in ("torch", "torchvision", "numpy", "yapf"))
_STANDARD = f"{Path(os.__file__).resolve().parent}{os.sep}"
_MACHINE = (OSError, MemoryError, torch.OutOfMemoryError)
# What this package raises on purpose; any other kind of error that comes out of it is a fault.
_DELIBERATE = (ValueError, ImportError, NotImplementedError)
_WORKER = re.compile(r"^Caught (\w+) in (DataLoader worker process \d+|[\w ]+)\.\s+Original Traceback", re.S)
# Failures of the machine that torch reports as a plain RuntimeError.
_REFUSED = re.compile(
    r"out of memory|can't allocate memory|not enough memory|PytorchStreamWriter|inline_container|iostream error|"
    r"shared memory|Too many open files|No space left|Read-only file system",
    re.I,
)
_WRITING = re.compile(r"PytorchStreamWriter|inline_container|iostream error")
_ADVICE = {
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
    is_raise: bool  # a `raise` statement, rather than an operation that failed

    @property
    def is_package(self) -> bool:
        """Whether it lies in this package or in one of its tools."""
        return self.file.startswith(_PACKAGE)

    def __str__(self) -> str:
        return f"{self.file.split(_SITE)[-1]}, line {self.line}"


def _is_raise(frame_code: object, instruction: int) -> bool:
    code = getattr(frame_code, "co_code", b"")
    return 0 <= instruction < len(code) and dis.opname[code[instruction]] == "RAISE_VARARGS"


def place_of(error: BaseException) -> Place | None:
    """Return the innermost place of an error outside the standard library, torch and numpy; None where there is none."""
    if worker := _WORKER.match(str(_text(error))):
        return _place_in_worker(str(_text(error))[worker.end() :])
    found = None
    step = error.__traceback__
    while step is not None:
        code = step.tb_frame.f_code
        file = os.path.abspath(code.co_filename)
        if not _is_passed_over(file):
            found = Place(file, step.tb_lineno, step.tb_next is None and _is_raise(code, step.tb_lasti))
        step = step.tb_next
    return found


def _is_passed_over(file: str) -> bool:
    return any(part in file for part in _COMPUTING) or (file.startswith(_STANDARD) and _SITE not in file)


def _place_in_worker(text: str) -> Place | None:
    """Parse the place from the traceback that a DataLoader's worker sends as text."""
    found = None
    for file, line, source in re.findall(r'File "([^"]+)", line (\d+), in [^\n]*\n\s*([^\n]*)', text):
        if not _is_passed_over(file):
            found = Place(file, int(line), source.startswith("raise"))
    return found


def _text(error: BaseException) -> object:
    """Return the text of an error; that of a KeyError is the repr of its argument."""
    return error.args[0] if isinstance(error, KeyError) and error.args else error


def root_of(error: BaseException) -> BaseException:
    """Return the original error where a library has caught it and raised another one that repeats its text.

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
    if before is None or (own is not None and own.is_package and own.is_raise):
        return error
    return root_of(before) if str(_text(before)) in str(_text(error)) else error


def is_user_error(error: BaseException) -> bool:
    """Whether an error comes from the user's input: a config, a command line, a file.

    It does where this package raised it on purpose, where the machine refused something (files, memory), and where another
    package raised it while it built or ran what a config names. An operation that fails inside this package is a fault.
    """
    error = root_of(error)
    if isinstance(error, _MACHINE) or (isinstance(error, RuntimeError) and _REFUSED.search(str(error))):
        return True
    place = place_of(error)
    if place is None:
        return isinstance(error, _DELIBERATE)
    return not place.is_package or (place.is_raise and isinstance(error, _DELIBERATE))


def is_deliberate(error: BaseException) -> bool:
    """Whether this package raised an error on purpose, so that its message is written for the user."""
    place = place_of(error)
    return place is not None and place.is_package and place.is_raise and isinstance(error, _DELIBERATE)


def one_line(error: BaseException) -> str:
    """Return an error's message in one line, with its kind and place where another package raised it.

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
        return f"{error.strerror}{named}; {_ADVICE.get(error.errno or 0, 'check that path')}"
    if isinstance(error, RuntimeError) and _WRITING.search(text):
        return f"a file could not be written whole ({text}); the disk is full, or the folder cannot be written"
    if place is None or place.is_package:
        return text if isinstance(error, _DELIBERATE) or not text else f"{kind}: {text}"
    return f"{kind}: {text or 'no message'} (raised in {place})"


@contextmanager
def worded(slot: str, *, built: bool = False) -> Iterator[None]:
    """Name the `slot` of a config in the errors that other packages raise while they build or run it.

    Args:
        slot: the beginning of the message.
        built: the block only builds an object from the options of the slot, so that an operation of this package that fails
            there is a user's error, too.

    Raises:
        ValueError: in place of a user's error that this package has not raised itself.

    >>> with worded("model.student"):  # doctest: +ELLIPSIS
    ...     {}.update(3)
    Traceback (most recent call last):
    ...
    ValueError: model.student: TypeError: 'int' object is not iterable (raised in ..., line 2)
    """
    try:
        yield
    except Exception as error:
        if is_deliberate(error) or not (built or is_user_error(error)):
            raise
        raise ValueError(f"{slot}: {one_line(error)}") from error


@contextmanager
def in_slot(slot: str) -> Iterator[None]:
    """Begin the message of an error that this package has raised with the `slot` of a config, or the argument, it is about.

    >>> from freqkd.utils.checks import check_whole
    >>> with in_slot("custom_hooks[0]"):
    ...     check_whole("interval", 0, 1)
    Traceback (most recent call last):
    ...
    ValueError: custom_hooks[0]: interval must be at least 1, got 0
    """
    try:
        yield
    except ValueError as error:
        if not is_deliberate(error) or str(error).startswith(f"{slot}: "):
            raise
        raise type(error)(f"{slot}: {error}") from None


def run_tool(main: Callable[[Sequence[str] | None], None], arguments: Sequence[str] | None = None) -> int:
    """Run a tool's main and return its exit code.

    Wrong input ends in one line on standard error and exit code 1. A fault of this package ends in its traceback, a request
    to report it, and exit code 70. With FREQKD_TRACEBACK=1 every error is raised as it is.
    """
    if os.environ.get(TRACEBACK):
        main(arguments)
        return 0
    try:
        main(arguments)
    except KeyboardInterrupt:
        print("interrupted; run it again to continue (train: with --resume)", file=sys.stderr)
        return 130
    except Exception as error:
        if is_user_error(error):
            print(f"error: {one_line(error)}{HINT}", file=sys.stderr)
            return 1
        traceback.print_exc()
        print(
            f"This is a fault of freqkd, not of your input: please report it with the lines above "
            f"(command: {' '.join(sys.argv)})",
            file=sys.stderr,
        )
        return FAULT
    return 0
