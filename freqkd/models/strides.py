"""Comparison of the strides of the maps that a term pairs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from freqkd.models.tap_shapes import map_shape

APART = 1.5  # ratio of two strides that are not one, whatever rounding does to the sizes of small maps


def compare_strides(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    images: Sequence[int],
    student_levels: Sequence[int] | None = None,
    teacher_levels: Sequence[int] | None = None,
) -> str:
    """Describe the pairs of maps whose strides differ, and the levels that would pair equal ones; "" where none does.

    Args:
        student: all maps of the student's tap.
        teacher: all maps of the teacher's tap.
        images: shape (N, C, H, W) of the images that both networks got.
        student_levels: the student's maps that are paired, in order; None: all.
        teacher_levels: the teacher's.

    >>> import torch
    >>> student, teacher = ([torch.zeros(1, 1, 64 // s, 96 // s) for s in strides] for strides in ((4, 8, 16), (8, 16, 32)))
    >>> print(compare_strides(student, teacher, (1, 3, 64, 96)))
    a student's map of stride 4 is compared with a teacher's of stride 8 (pair 0), 8 with 16 (pair 1), 16 with 32 (pair 2); \
student_levels=(1, 2), teacher_levels=(0, 1) would pair equal strides
    >>> compare_strides(student, teacher, (1, 3, 64, 96), (1, 2), (0, 1))
    ''
    """
    strides = [[map_shape(one, images).stride for one in maps] for maps in (student, teacher)]
    levels = (student_levels or range(len(student)), teacher_levels or range(len(teacher)))
    chosen = [[own[level] for level in which if level < len(own)] for own, which in zip(strides, levels)]
    apart = [
        (pair, ours, theirs)
        for pair, (ours, theirs) in enumerate(zip(*chosen))
        if ours and theirs and max(ours, theirs) >= APART * min(ours, theirs)
    ]
    if not apart:
        return ""
    (pair, ours, theirs), *more = apart
    text = f"a student's map of stride {ours} is compared with a teacher's of stride {theirs} (pair {pair})"
    text += "".join(f", {ours} with {theirs} (pair {pair})" for pair, ours, theirs in more)
    # The smallest maps may look alike, and a whole head gives several maps of a stride: only what is clear is proposed.
    clear = [stride for stride in strides[0] if stride and all(own.count(stride) == 1 for own in strides)]
    if clear:
        ours_at, theirs_at = (tuple(own.index(stride) for stride in clear) for own in strides)
        text += f"; student_levels={ours_at}, teacher_levels={theirs_at} would pair equal strides"
    return text
