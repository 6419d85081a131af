"""Heads of two-stage detectors by the stage of a cascade, which may be another one in student and teacher."""

from __future__ import annotations

from typing import cast

from torch import nn

from freqkd.taps import find_module
from freqkd.utils.checks import check_whole


def roi_stages(stage: int | None, student_stage: int | None, teacher_stage: int | None) -> dict[str, int | None]:
    """Return the stage of the "student" and of the "teacher" among the heads of their cascades.

    Raises:
        ValueError: a negative stage, or `stage` beside one of the others.

    >>> roi_stages(None, None, 2)
    {'student': None, 'teacher': 2}
    >>> roi_stages(1, None, None)
    {'student': 1, 'teacher': 1}
    """
    given = dict(stage=stage, student_stage=student_stage, teacher_stage=teacher_stage)
    for name, value in given.items():
        if value is not None:
            check_whole(name, value, 0)
    if stage is not None and not student_stage is teacher_stage is None:
        raise ValueError(
            f"stage must be left out beside student_stage and teacher_stage, got {stage}; it is the same stage in both"
        )
    student, teacher = (student_stage, teacher_stage) if stage is None else (stage, stage)
    return dict(student=student, teacher=teacher)


def stage_path(part: str, stage: int | None) -> str:
    """Return the path of a part of a RoI head, of one stage where it is a cascade.

    >>> stage_path("bbox_head", None), stage_path("mask_head", 2)
    ('roi_head.bbox_head', 'roi_head.mask_head.2')
    """
    return f"roi_head.{part}" + ("" if stage is None else f".{stage}")


def find_stage(network: nn.Module, part: str, stage: int | None, owner: str) -> nn.Module:
    """Return the head of a stage.

    Args:
        network: a two-stage detector.
        part: "bbox_head" or "mask_head".
        stage: its index; None where there is one head.
        owner: "student" or "teacher", for the message.

    Raises:
        ValueError: there is none, one where several are expected, or the other way round.
    """
    heads = getattr(find_module(network, "roi_head"), part, None)
    if heads is None:
        raise ValueError(f"the {owner} must have a roi_head.{part}, got {type(network).__name__}, which has none")
    count = len(heads) if isinstance(heads, nn.ModuleList) else None
    if (count is None) != (stage is None) or (count is not None and int(stage or 0) >= count):
        has = f"one {part}: leave {owner}_stage out"
        if count is not None:
            has = f"{count}: set {owner}_stage from 0 to {count - 1}"
        raise ValueError(
            f"{owner}_stage must be that of a {part} of the {owner}, got {stage}; the {owner} has {has} (stage= sets both "
            "networks')"
        )
    return heads if stage is None else cast(nn.ModuleList, heads)[stage]
