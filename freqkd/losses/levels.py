"""Sum of a comparison of two maps over the levels of a pyramid."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from freqkd.align import Maps
from freqkd.utils.checks import as_maps, check_same_shape, upcast


def sum_levels(compare: Callable[[Tensor, Tensor], Tensor], student: Maps, teacher: Maps, same: bool = True) -> Tensor:
    r"""Return the sum over levels of a comparison, in float32 at least, outside autocast, without gradient to the teacher.

    .. math:: \sum_l \mathrm{compare}(s_l, t_l)

    Args:
        compare: of one map of the student with one of the teacher; returns a scalar.
        student: a map or a list of maps, one per level.
        teacher: the teacher's maps, likewise.
        same: whether both maps of a level must have one shape.

    Raises:
        ValueError: numbers of maps differ, or shapes.

    >>> maps = [torch.ones(1, 2, 4, 4), torch.ones(1, 2, 2, 2)]
    >>> sum_levels(lambda student, teacher: (student - teacher).abs().max(), maps, [3 * x for x in maps]).item()
    4.0
    """
    losses = []
    for level, (student_feat, teacher_feat) in enumerate(as_maps(student, teacher)):
        if same:
            check_same_shape(student_feat, teacher_feat, f"features of level {level}")
        with torch.autocast(student_feat.device.type, enabled=False):
            losses.append(compare(upcast(student_feat), upcast(teacher_feat.detach())))
    return torch.stack(losses).sum()
