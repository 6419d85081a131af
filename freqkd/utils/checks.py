"""Checks of arguments, whose errors name the argument, the rule and the value."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
LARGEST = 1e6  # factors and temperatures: beyond it, float32's seven digits leave nothing of a number beside them
LONGEST = 10**9  # numbers of steps, images or labels
WIDEST = 2**16  # channels: memory grows with their square


def nearest(name: str, options: Iterable[str], count: int = 3, cutoff: float = 0.4) -> list[str]:
    """Return the options most like `name`, the most similar first; 1 is the similarity of equal ones.

    >>> nearest("nekc", ["neck", "backbone", "bbox_head"])
    ['neck']
    """
    return difflib.get_close_matches(name, list(options), n=count, cutoff=cutoff)


def did_you_mean(name: str, options: Iterable[str], cutoff: float = 0.4) -> str:
    """Return the end of a message that names the option most like `name`; nothing where none is like it.

    >>> did_you_mean("nekc", ["neck", "backbone"]), did_you_mean("nekc", ["head"])
    ("; did you mean 'neck'?", '')
    """
    close = nearest(name, options, 1, cutoff)
    return f"; did you mean {close[0]!r}?" if close else ""


def is_slip(name: str, option: str) -> bool:
    """Whether `name` is `option` with one letter missing, added, another, or changed with its neighbour.

    >>> [is_slip(name, "train_cfg") for name in ("trian_cfg", "tran_cfg", "train_cfgs", "traim_cfg", "test_cfg", "train_cfg")]
    [True, True, True, True, False, False]
    """
    if name == option or abs(len(name) - len(option)) > 1:
        return False
    start = next((index for index, (a, b) in enumerate(zip(name, option)) if a != b), min(len(name), len(option)))
    ours, other = name[start:], option[start:]
    swapped = ours[:2] == other[:2][::-1] and ours[2:] == other[2:]
    return swapped or ours[1:] == other[1:] or ours[1:] == other or ours == other[1:]


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise ValueError unless `value` is one of `choices`.

    >>> check_choice("tokens_per", "subbands", ["subband", "scale"])
    Traceback (most recent call last):
    ...
    ValueError: tokens_per must be one of 'subband', 'scale', got 'subbands'; did you mean 'subband'?
    """
    options = list(choices)
    if value in options:
        return
    hint = did_you_mean(str(value), options)
    raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}, got {value!r}{hint}")


def check_at_least(
    name: str, value: float, least: float, *, exclusive: bool = False, most: float = LARGEST, whole: bool = False
) -> None:
    """Raise ValueError unless `value` is a number from (`exclusive`: above) `least` to `most`, and not a boolean.

    >>> check_at_least("depth", 0, 1)
    Traceback (most recent call last):
    ...
    ValueError: depth must be at least 1, got 0
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
        raise ValueError(f"{name} must be at most {most:.12g}, got {value!r}")


def check_whole(name: str, value: int, least: int, most: int = LONGEST) -> None:
    """Raise ValueError unless `value` is a whole number from `least` to `most`; nothing is rounded.

    >>> check_whole("views", 2.5, 1)
    Traceback (most recent call last):
    ...
    ValueError: views must be a whole number, at least 1, got 2.5
    """
    check_at_least(name, value, least, most=most, whole=True)


def check_positive(name: str, value: float) -> None:
    """Raise ValueError unless `value` is a number that may divide and be squared, such as a temperature: 1e-6 to 1e6.

    >>> check_positive("tau", 1e-30)
    Traceback (most recent call last):
    ...
    ValueError: tau must be at least 1e-06, got 1e-30
    """
    check_at_least(name, value, 0, exclusive=True)
    check_at_least(name, value, 1 / LARGEST)


def check_flag(name: str, value: bool) -> None:
    """Raise ValueError unless `value` is True or False; a text, for example, would count as True.

    >>> check_flag("normalize", "no")
    Traceback (most recent call last):
    ...
    ValueError: normalize must be True or False, got 'no'
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")


def check_sequence(name: str, value: object, what: str) -> None:
    """Raise ValueError unless `value` is a list or tuple.

    >>> check_sequence("scales", 2, "numbers")
    Traceback (most recent call last):
    ...
    ValueError: scales must be a list of numbers, got 2
    """
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise ValueError(f"{name} must be a list of {what}, got {value!r}")


def check_levels(levels: Sequence[int] | None, name: str = "levels") -> None:
    """Raise ValueError unless `levels` are indices of maps, or None for all.

    >>> check_levels([0, 2])
    >>> check_levels([-1])
    Traceback (most recent call last):
    ...
    ValueError: levels must be indices of tapped maps from 0 on, at least one, got [-1]
    """
    if levels is None:
        return
    check_sequence(name, levels, "indices of tapped maps")
    whole = all(isinstance(level, int) and not isinstance(level, bool) for level in levels)
    if not levels or not whole or min(levels) < 0 or max(levels) > LONGEST:
        raise ValueError(f"{name} must be indices of tapped maps from 0 on, at least one, got {levels}")


def check_map(name: str, value: Tensor, channels: int | None = None) -> None:
    """Raise ValueError unless `value` is a non-empty floating point map (N, C, H, W), of `channels` channels where given."""
    if value.dim() != 4:
        raise ValueError(f"{name} must be a map (N, C, H, W), got shape {tuple(value.shape)}")
    if value.numel() == 0:
        raise ValueError(f"{name} must not be empty, got shape {tuple(value.shape)}")
    if not value.is_floating_point():
        raise ValueError(f"{name} must hold floating point numbers, got {value.dtype}; convert it first")
    if channels is not None and value.shape[1] != channels:
        raise ValueError(f"{name} must have {channels} channels, got {value.shape[1]} (shape {tuple(value.shape)})")


def check_same_shape(student: Tensor, teacher: Tensor, what: str = "feature", fix: str = "") -> None:
    """Raise ValueError where student and teacher differ in shape; the message ends with `fix`, or says what to do.

    >>> check_same_shape(torch.ones(2, 80), torch.ones(2, 20), "logits", fix="both heads need the same classes")
    Traceback (most recent call last):
    ...
    ValueError: student and teacher logits must have the same shape, got (2, 80) and (2, 20); both heads need the same classes
    """
    if student.shape == teacher.shape:
        return
    raise ValueError(
        f"student and teacher {what} must have the same shape, got {tuple(student.shape)} and {tuple(teacher.shape)}; "
        f"{fix or _advice(student, teacher)}"
    )


def _advice(student: Tensor, teacher: Tensor) -> str:
    """Return what brings two outputs of different shapes to one."""
    if student.dim() != teacher.dim() or student.dim() < 2:
        return "tap modules that return the same kind of output"
    if len(student) != len(teacher):
        return (
            "their rows are not the same images or regions, which no align changes: tap a module that gives one row for each "
            "image, or take an adapter that pairs them: ProposalLogits, MaskLogits, QueryLogits"
        )
    if student.shape[1] != teacher.shape[1]:
        align = f"ConvAlign(student_channels={student.shape[1]}, teacher_channels={teacher.shape[1]})"
        return f"add an align, e.g. {align}; class logits take none: they need heads of the same classes"
    heights = (student.shape[2], teacher.shape[2])
    if max(heights) < 1.5 * min(heights):
        return "add an align, e.g. ResizeAlign()"
    return "choose student_levels and teacher_levels of the same strides, or add an align, e.g. ResizeAlign()"


def check_pyramids(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
    """Raise ValueError where two lists of maps differ in length or are empty."""
    if not student or len(student) != len(teacher):
        raise ValueError(
            f"student and teacher must give the same number of maps, at least one, got {len(student)} and {len(teacher)}; "
            "choose student_levels and teacher_levels so that they are as many"
        )


def as_maps(student: Tensor | Sequence[Tensor], teacher: Tensor | Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return (student, teacher) pairs of maps, one per level; a single map stands for a list of one.

    >>> import torch
    >>> [(s.shape[-1], t.shape[-1]) for s, t in as_maps(torch.ones(1, 2, 4, 4), [torch.ones(1, 2, 4, 8)])]
    [(4, 8)]
    """
    student = [student] if isinstance(student, Tensor) else student
    teacher = [teacher] if isinstance(teacher, Tensor) else teacher
    check_pyramids(student, teacher)
    for level, (student_feat, teacher_feat) in enumerate(zip(student, teacher)):
        check_map(f"student_feats[{level}]", student_feat)
        check_map(f"teacher_feats[{level}]", teacher_feat)
    return list(zip(student, teacher))


def upcast(x: Tensor) -> Tensor:
    """Return `x` in the precision of the losses: float64 as it is, anything else as float32.

    >>> import torch
    >>> upcast(torch.ones(1, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return x if x.dtype == torch.float64 else x.float()


def common_dtype(first: Tensor, second: Tensor) -> torch.dtype:
    """Return the precision in which a loss compares two tensors: float64 if one of them is, else float32.

    >>> import torch
    >>> common_dtype(torch.ones(1, dtype=torch.bfloat16), torch.ones(1, dtype=torch.float64))
    torch.float64
    """
    return torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)


def resolve_choice(name: str, spec: object, table: Mapping[str, type[T]], base: type[T]) -> T:
    """Build what `spec` names: an instance of `base`, or a `name` or `dict(type=name, **options)` of `table`.

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
    kind = options.pop("type", None)
    if not isinstance(kind, str):
        raise ValueError(f"{name} must be a name, a dict with a 'type' or a {base.__name__}, got {spec!r}")
    check_choice(f"{name} type", kind, table)
    known = list(inspect.signature(table[kind]).parameters)
    for option in options:
        if option not in known:
            hint = did_you_mean(option, known)
            raise ValueError(
                f"{name}=dict(type={kind!r}, ...) takes {', '.join(known) or 'no options'}, got {option!r}{hint}"
            )
    return table[kind](**options)
