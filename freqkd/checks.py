"""Argument checks whose errors name the argument, the rule, the value and what to do."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


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


def check_at_least(name: str, value: float, least: float, *, exclusive: bool = False) -> None:
    """Raise ValueError where `value` is no number of at least (`exclusive`: above) `least`.

    >>> check_at_least("level", 0, 1)
    Traceback (most recent call last):
    ...
    ValueError: level must be at least 1, got 0
    """
    good = isinstance(value, (int, float)) and (value > least if exclusive else value >= least)
    if not good:
        raise ValueError(f"{name} must be {'above' if exclusive else 'at least'} {least}, got {value!r}")


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
