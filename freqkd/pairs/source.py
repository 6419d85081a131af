"""Python source of configs: nested dicts as `dict(key=value)`, with comments above the keys that have a reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

WIDTH = 110  # characters of a line
STEP = "    "


class Code(str):
    """Text that stands in the source as it is, such as `{{_base_.model}}`."""


def source(value: Any, depth: int = 0, comments: Mapping[str, str] | None = None) -> str:
    """Return the source of a value; a dict that does not fit a line has a line for each key.

    Args:
        value: dicts, lists, tuples and plain values.
        depth: how far the text stands to the right, in steps of four blanks.
        comments: comments by key, above the line of the key; keys of inner dicts as "outer.inner".

    >>> source(dict(type="Resize", scale=(300, 300)))
    "dict(type='Resize', scale=(300, 300))"
    >>> print(source(dict(tap="neck"), comments=dict(tap="the usual tap")))
    dict(
        # the usual tap
        tap='neck')
    """
    comments = comments or {}
    if not isinstance(value, (Mapping, list, tuple)) or isinstance(value, Code) or not value:
        return str(value) if isinstance(value, Code) else repr(value)
    flat = _flat(value)
    if not comments and len(STEP) * depth + len(flat) <= WIDTH:
        return flat
    inner = STEP * (depth + 1)
    lines = []
    named = isinstance(value, Mapping) and all(str(key).isidentifier() for key in value)
    items: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, Mapping) else enumerate(value)
    for key, item in items:
        if key in comments:
            lines.append(f"{inner}# {comments[key]}\n")
        below = {name.partition(".")[2]: text for name, text in comments.items() if name.startswith(f"{key}.")}
        text = source(item, depth + 1, below)
        before = f"{key}=" if named else f"{key!r}: " if isinstance(value, Mapping) else ""
        lines.append(f"{inner}{before}{text},\n")
    start, end = ("dict(", ")") if named else ("{", "}") if isinstance(value, Mapping) else ("[", "]")
    if isinstance(value, tuple):
        start, end = "(", ")" if len(value) > 1 else ",)"
    return f"{start}\n{''.join(lines)[:-2]}{end}"


def _flat(value: Any) -> str:
    """Return the source of a value on one line."""
    if isinstance(value, Code):
        return str(value)
    if isinstance(value, Mapping):
        if all(str(key).isidentifier() for key in value):
            return f"dict({', '.join(f'{key}={_flat(item)}' for key, item in value.items())})"
        return f"{{{', '.join(f'{key!r}: {_flat(item)}' for key, item in value.items())}}}"
    if isinstance(value, tuple):
        return f"({', '.join(map(_flat, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, list):
        return f"[{', '.join(map(_flat, value))}]"
    return repr(value)
