"""FreeKD's loss computed as in the released program, reimplemented: what the speed is compared with.

The transform is pytorch_wavelets'; student and teacher are transformed separately; the coefficients of every level are
multiplied by the T masks one by one, so that T masked copies of both are made; the tokens require gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ReleasedFreeKD(nn.Module):
    """One token set for every level of the transform, three levels, means over everything, added up."""

    def __init__(self, channels: int, num_levels: int, num_prompts: int) -> None:
        super().__init__()
        from pytorch_wavelets import DWTForward

        self.transform = DWTForward(J=3, wave="haar", mode="zero")
        self.tokens = nn.ParameterList(nn.Parameter(torch.randn(4, num_prompts, channels)) for _ in range(num_levels))

    def forward(self, students: Sequence[Tensor], teachers: Sequence[Tensor]) -> Tensor:
        loss = students[0].new_zeros(())
        for student, teacher, tokens in zip(students, teachers, self.tokens):
            _, student_bands = self.transform(student)
            _, teacher_bands = self.transform(teacher)
            for level, (student_band, teacher_band) in enumerate(zip(student_bands, teacher_bands)):
                scores = torch.einsum("tc,nchw->nthw", tokens[level + 1], teacher_band.sum(2))
                masks = torch.sigmoid(scores)[:, :, None, None]
                loss = loss + F.l1_loss(student_band[:, None] * masks, teacher_band[:, None] * masks)
        return loss
