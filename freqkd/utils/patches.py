"""Temporary replacement of attributes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Replace an attribute of an object, a class or a module inside the block.

    >>> number = type("Number", (), {"value": 1})()
    >>> with replaced(number, "value", 2):
    ...     number.value
    2
    >>> number.value, vars(number)
    (1, {})
    """
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        restore(owner, name, before)


def restore(owner: Any, name: str, before: Any) -> None:
    """Undo `setattr(owner, name, ...)`; `before` is what `vars(owner)` had, None for nothing."""
    if before is not None:
        setattr(owner, name, before)
    elif name in vars(owner):
        delattr(owner, name)
