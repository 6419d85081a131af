"""What to do where student and teacher differ in shape: an align helps with channels and sizes, and with nothing else."""

import pytest
import torch

from freqkd.losses import mse_loss


@pytest.mark.parametrize(
    ("student", "teacher", "advice"),
    [
        ((2, 8, 6, 6), (2, 8, 5, 6), r"\(2, 8, 5, 6\); add an align, e.g. ResizeAlign\(\)$"),
        ((2, 8, 6, 6), (2, 8, 12, 12), "choose student_levels and teacher_levels of the same strides, or add an align"),
        ((2, 8, 6, 6), (2, 16, 6, 6), r"ConvAlign\(student_channels=8, teacher_channels=16\)"),
        ((32, 8, 7, 7), (100, 8, 7, 7), "not the same images or regions, which no align changes: .* ProposalLogits"),
        ((32, 8, 7, 7), (100, 16, 7, 7), "not the same images or regions, which no align changes"),
    ],
)
def test_the_advice_fits_what_differs(student, teacher, advice):
    with pytest.raises(ValueError, match=advice):
        mse_loss(torch.zeros(student), torch.zeros(teacher))
