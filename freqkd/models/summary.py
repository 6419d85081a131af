"""Summary of a distillation or a first stage for the log: networks, taps with shapes and strides, what is trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from freqkd.models.distiller import Distiller
from freqkd.models.schedule import TermSchedule
from freqkd.models.tap_shapes import MapShape
from freqkd.models.teacher_stage import TeacherStage
from freqkd.models.term import DistillTerm
from freqkd.models.weight import FixedWeight, HeldRatioWeight, RatioWeight

Shapes = Mapping[str, Mapping[str, Sequence[MapShape]]]  # by "student" or "teacher", then by path


def summarize(model: Distiller | TeacherStage, shapes: Shapes | None = None) -> list[str]:
    """Return the lines that say what a run distils, or what its first stage trains.

    Args:
        model: what is trained; its teacher is built where it is not yet.
        shapes: of what is tapped for one image, see `Distiller.rehearse`; None or empty: they are not known.
    """
    model.prepare()
    lines = [f"teacher: {_network(model.teacher.model)}{_source(model.teacher)}"]
    if isinstance(model, TeacherStage):
        lines.append(f"{model.edited.removeprefix('the ')}: at {_tapped('teacher', model.tap, model.levels, shapes)}")
        return [*lines, f"trained: {_counts(model.named_children(), model)}"]
    lines.insert(0, f"student: {_network(model.student)}")
    for name, term in model.terms.items():
        lines += _term(name, term, shapes)
    beside = _counts(model.terms.items(), model)
    return [*lines, f"trained beside the student: {beside or 'nothing'}"]


def count_words(count: int) -> str:
    """Return a number of parameters in words.

    >>> [count_words(count) for count in (640, 12_345, 4_930_000)]
    ['640', '12.3 k', '4.93 M']
    """
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def _count(module: nn.Module, only_trained: bool = False) -> int:
    return sum(one.numel() for one in module.parameters() if one.requires_grad or not only_trained)


def _network(network: nn.Module) -> str:
    total, trained = _count(network), _count(network, only_trained=True)
    part = f", {count_words(trained)} of them trained" if 0 < trained < total else ""
    return f"{type(network).__name__}, {count_words(total)} parameters{part}"


def _source(teacher: Any) -> str:
    """Return where a teacher comes from, where it names files."""
    named = [getattr(teacher, name, None) for name in ("config", "checkpoint")]
    found = [str(one) for one in named if one and not isinstance(one, Mapping)]
    return f", from {' with '.join(found)}" if found else ""


def _counts(parts: Iterable[tuple[str, nn.Module]], model: nn.Module) -> str:
    """Return what is trained of some parts, with their numbers of parameters."""
    found = []
    for name, part in parts:
        inner = part.named_children() if isinstance(model, Distiller) else [("", part)]
        for what, module in inner:
            if count := _count(module, only_trained=True):
                found.append(f"{f'{name}.{what}'.rstrip('.')} ({count_words(count)} parameters)")
    return ", ".join(found)


def _term(name: str, term: DistillTerm, shapes: Shapes | None) -> list[str]:
    """Return a line on a term's loss and one on each of its taps."""
    words = [type(term.loss).__name__, _weight(term.weight)]
    if term.schedule is not None:
        words.append(_schedule(term.schedule))
    if term.prompt_file is not None:
        words.append(f"prompts {term.prompt_file.path}")
    elif term.needs_prompts:
        words.append("untrained prompts")
    if term.adapter is not None:
        words.append(f"by {type(term.adapter).__name__}")
    align = "" if term.align is None else f", through {type(term.align).__name__}"
    taught = "run by the adapter"
    if term.teacher_tap in term.teacher_paths:
        taught = _tapped("teacher", term.teacher_tap, term.teacher_levels, shapes)
    return [
        f"{name}: {', '.join(words)}",
        f"    student {_tapped('student', term.student_tap, term.student_levels, shapes)}{align}",
        f"    teacher {taught}",
    ]


def _weight(weight: nn.Module) -> str:
    if isinstance(weight, HeldRatioWeight):
        return (
            f"gradient {weight.ratio:g} times the task's, held within a factor of {weight.band:g} (weight measured over "
            f"{weight.iters} iterations, corrected every {weight.interval})"
        )
    if isinstance(weight, RatioWeight):
        return f"gradient {weight.ratio:g} times the task's (weight measured over {weight.iters} iterations)"
    return f"weight {weight.weight:g}" if isinstance(weight, FixedWeight) else type(weight).__name__


def _schedule(schedule: TermSchedule) -> str:
    unit = "epochs" if schedule.by_epoch else "iterations"
    end = "" if schedule.end is None else f", end={schedule.end}"
    return f"schedule begin={schedule.begin}, warmup={schedule.warmup}{end}, decay={schedule.decay} in {unit}"


def _tapped(owner: str, path: str, levels: Sequence[int] | None, shapes: Shapes | None) -> str:
    """Return a tap's path, the shapes of its maps without the number of images, and their strides."""
    maps = list((shapes or {}).get(owner, {}).get(path, ()))
    chosen = range(len(maps)) if levels is None else levels
    texts = [_map(maps[level]) for level in chosen if level < len(maps)]
    named = "" if levels is None else f" levels {', '.join(map(str, levels))}"
    return f"{path!r}{named}: {', '.join(texts)}" if texts else f"{path!r}{named}, of unknown shapes"


def _map(one: MapShape) -> str:
    sizes = one.shape if one.stride is None else one.shape[1:]
    return "x".join(map(str, sizes)) + ("" if one.stride is None else f" at stride {one.stride}")
