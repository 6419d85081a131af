"""FreeKD's loss in the plain form of the released program, written anew: what the speed is compared with.

The transform is pytorch_wavelets'; student and teacher are transformed apart; every level's coefficients are multiplied by
the T masks one by one, so T masked copies of both are made; the tokens require gradients, which nobody uses.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlainFreeKD(nn.Module):
    """One token set for every level of the transform, three levels, means over everything, added up."""

    def __init__(self, channels: int, num_levels: int, num_prompts: int) -> None:
        super().__init__()
        from pytorch_wavelets import DWTForward

        self.transform = DWTForward(J=3, wave="haar", mode="zero")
        self.tokens = nn.ParameterList(nn.Parameter(torch.randn(4, num_prompts, channels)) for _ in range(num_levels))

    def forward(self, students: Sequence[Tensor], teachers: Sequence[Tensor]) -> Tensor:
        loss = students[0].new_zeros(())
        for student, teacher, tokens in zip(students, teachers, self.tokens):
            _, ours = self.transform(student)
            _, theirs = self.transform(teacher)
            for level, (own, other) in enumerate(zip(ours, theirs)):
                pixels = other.sum(2)
                masks = torch.sigmoid(torch.einsum("tc,nchw->nthw", tokens[level + 1], pixels))[:, :, None, None]
                loss = loss + F.l1_loss(own[:, None] * masks, other[:, None] * masks)
        return loss
