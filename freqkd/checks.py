"""Argument checks whose errors name the argument, the rule, the value and what to do."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
LARGEST = (
    1e6  # of factors and temperatures: float32 has seven digits, and leaves none to what stands beside a larger one
)
LONGEST = 10**9  # of what counts steps, images or labels
WIDEST = 2**16  # of channels: memory grows with their square


def nearest(word: str, options: Iterable[str], count: int = 3) -> list[str]:
    """Return the options most like `word`, the best first.

    >>> nearest("nekc", ["neck", "backbone", "bbox_head"])
    ['neck']
    """
    return difflib.get_close_matches(word, list(options), n=count, cutoff=0.4)


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise ValueError where `value` is none of `choices`.

    >>> check_choice("bands", "subbands", ["subband", "level"])
    Traceback (most recent call last):
    ...
    ValueError: bands must be one of 'subband', 'level', got 'subbands'; did you mean 'subband'?
    """
    options = list(choices)
    if value in options:
        return
    close = nearest(str(value), options, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}, got {value!r}{hint}")


def check_at_least(
    name: str, value: float, least: float, *, exclusive: bool = False, most: float = LARGEST, whole: bool = False
) -> None:
    """Raise ValueError where `value` is no number from (`exclusive`: above) `least` to `most`; a boolean is none.

    >>> check_at_least("level", 0, 1)
    Traceback (most recent call last):
    ...
    ValueError: level must be at least 1, got 0
    >>> check_at_least("tau", float("nan"), 0, exclusive=True)
    Traceback (most recent call last):
    ...
    ValueError: tau must be a number, above 0, got nan
    """
    rule = f"{'above' if exclusive else 'at least'} {least}"
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or value != value:
        raise ValueError(f"{name} must be a {'whole ' * whole}number, {rule}, got {value!r}")
    if not (value > least if exclusive else value >= least):
        raise ValueError(f"{name} must be {rule}, got {value!r}")
    if value > most:
        raise ValueError(f"{name} must be at most {most:.12g}, the largest that makes sense, got {value!r}")


def check_whole(name: str, value: int, least: int, most: int = LONGEST) -> None:
    """Raise ValueError where `value` is no whole number from `least` to `most`: nothing is rounded.

    >>> check_whole("views", 2.5, 1)
    Traceback (most recent call last):
    ...
    ValueError: views must be a whole number, at least 1, got 2.5
    """
    check_at_least(name, value, least, most=most, whole=True)


def check_positive(name: str, value: float) -> None:
    """Raise ValueError where `value` is no temperature, a number above 0 that may divide and be squared: 1e-6 to 1e6.

    >>> check_positive("tau", 1e-30)
    Traceback (most recent call last):
    ...
    ValueError: tau must be at least 1e-06, got 1e-30
    """
    check_at_least(name, value, 0, exclusive=True)
    check_at_least(name, value, 1 / LARGEST)


def check_flag(name: str, value: bool) -> None:
    """Raise ValueError where `value` is neither True nor False, e.g. a word, which would count as True.

    >>> check_flag("normalize", "no")
    Traceback (most recent call last):
    ...
    ValueError: normalize must be True or False, got 'no'
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")


def check_sequence(name: str, value: object, what: str) -> None:
    """Raise ValueError where `value` is no list or tuple, e.g. a single one of what it should hold.

    >>> check_sequence("scales", 2, "numbers")
    Traceback (most recent call last):
    ...
    ValueError: scales must be a list of numbers, got 2
    """
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise ValueError(f"{name} must be a list of {what}, got {value!r}")


def check_levels(levels: Sequence[int] | None) -> None:
    """Raise ValueError where `levels` are no indices of maps; None stands for all.

    >>> check_levels([0, 2])
    >>> check_levels([-1])
    Traceback (most recent call last):
    ...
    ValueError: levels must be indices of tapped maps from 0 on, at least one, got [-1]
    """
    if levels is None:
        return
    check_sequence("levels", levels, "indices of tapped maps")
    whole = all(isinstance(level, int) and not isinstance(level, bool) for level in levels)
    if not levels or not whole or min(levels) < 0 or max(levels) > LONGEST:
        raise ValueError(f"levels must be indices of tapped maps from 0 on, at least one, got {levels}")


def check_map(name: str, value: Tensor, channels: int | None = None) -> None:
    """Raise ValueError where `value` is no non-empty floating (N, C, H, W) map, or has not `channels` channels."""
    if value.dim() != 4:
        raise ValueError(f"{name} must be a map (N, C, H, W), got shape {tuple(value.shape)}")
    if value.numel() == 0:
        raise ValueError(f"{name} must not be empty, got shape {tuple(value.shape)}")
    if not value.is_floating_point():
        raise ValueError(f"{name} must hold floating point numbers, got {value.dtype}; convert it first")
    if channels is not None and value.shape[1] != channels:
        raise ValueError(f"{name} must have {channels} channels, got {value.shape[1]} (shape {tuple(value.shape)})")


def check_same_shape(student: Tensor, teacher: Tensor, what: str = "feature") -> None:
    """Raise ValueError where student and teacher differ in shape, with the align that would help."""
    if student.shape == teacher.shape:
        return
    ours, theirs = tuple(student.shape), tuple(teacher.shape)
    if student.dim() == teacher.dim() and len(ours) > 1 and ours[1] != theirs[1]:
        cure = f"add an align, e.g. ConvAlign(student_channels={ours[1]}, teacher_channels={theirs[1]})"
    else:
        cure = "add an align that resizes, e.g. ResizeAlign()"
    raise ValueError(f"student and teacher {what} must have the same shape, got {ours} and {theirs}; {cure}")


def check_pyramids(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
    """Raise ValueError where two lists of maps differ in length or are empty."""
    if not student or len(student) != len(teacher):
        raise ValueError(
            f"student and teacher must give the same number of maps, at least one, got {len(student)} and {len(teacher)}; "
            "choose the levels of the term so that they pair up"
        )


def as_maps(student: Tensor | Sequence[Tensor], teacher: Tensor | Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return (student, teacher) pairs of maps: one pair per level, a single map standing for a list of one.

    >>> import torch
    >>> [(s.shape[-1], t.shape[-1]) for s, t in as_maps(torch.ones(1, 2, 4, 4), [torch.ones(1, 2, 4, 8)])]
    [(4, 8)]
    """
    ours = [student] if isinstance(student, Tensor) else list(student)
    theirs = [teacher] if isinstance(teacher, Tensor) else list(teacher)
    check_pyramids(ours, theirs)
    for level, (student_feat, teacher_feat) in enumerate(zip(ours, theirs)):
        check_map(f"student_feats[{level}]", student_feat)
        check_map(f"teacher_feats[{level}]", teacher_feat)
    return list(zip(ours, theirs))


def upcast(x: Tensor) -> Tensor:
    """Return `x` in the precision losses compute in: float64 stays, everything else becomes float32.

    >>> import torch
    >>> upcast(torch.ones(1, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return x if x.dtype == torch.float64 else x.float()


def resolve_choice(name: str, spec: object, table: Mapping[str, type[T]], base: type[T]) -> T:
    """Build what `spec` names: an instance of `base` passes, a word or `dict(type=word, **options)` is looked up in `table`.

    >>> resolve_choice("number", dict(type="complex", real=1.0), {"complex": complex}, complex)
    (1+0j)
    >>> resolve_choice("number", dict(type="complex", reel=1.0), {"complex": complex}, complex)
    Traceback (most recent call last):
    ...
    ValueError: number=dict(type='complex', ...) takes real, imag, got 'reel'; did you mean 'real'?
    """
    if isinstance(spec, base):
        return spec
    options = {"type": spec} if isinstance(spec, str) else dict(spec) if isinstance(spec, Mapping) else {}
    word = options.pop("type", None)
    if not isinstance(word, str):
        raise ValueError(f"{name} must be a word, a dict with a 'type' or a {base.__name__}, got {spec!r}")
    check_choice(f"{name} type", word, table)
    known = list(inspect.signature(table[word]).parameters)
    for option in options:
        if option not in known:
            close = nearest(option, known, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(
                f"{name}=dict(type={word!r}, ...) takes {', '.join(known) or 'no options'}, got {option!r}{hint}"
            )
    return table[word](**options)
