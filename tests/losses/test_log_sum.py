"""Logarithm of the summed powers of batch-normalised differences."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from freqkd.losses import log_sum_loss
from freqkd.losses.log_sum import LogSumLoss


@pytest.mark.parametrize("power", [1.0, 2.5, 4.0])
def test_it_is_the_logarithm_of_the_sum_behind_a_batch_norm(power: float) -> None:
    student, teacher = torch.randn(2, 2, 3, 4, 5).double() * 100
    s, t = (F.batch_norm(x, None, None, training=True) for x in (student, teacher))
    total = sum(abs(d) ** power for d in (s - t).flatten().tolist())
    assert log_sum_loss(student, teacher, power=power).item() == pytest.approx(math.log(1 + total), rel=1e-6)


def test_scale_and_shift_of_a_channel_do_not_matter() -> None:
    student, teacher = torch.randn(2, 2, 3, 8, 8, dtype=torch.float64)
    scale, shift = torch.rand(2, 1, 3, 1, 1) * 9 + 1, torch.randn(2, 1, 3, 1, 1)
    moved = log_sum_loss(student * scale[0] + shift[0], teacher * scale[1] + shift[1])
    torch.testing.assert_close(moved, log_sum_loss(student, teacher), rtol=1e-5, atol=0)


def test_the_number_of_positions_is_a_constant_in_it() -> None:
    student, teacher = torch.randn(2, 1, 3, 8, 8).double()
    four = log_sum_loss(student.repeat(4, 1, 1, 1), teacher.repeat(4, 1, 1, 1))
    assert (four - log_sum_loss(student, teacher)).item() == pytest.approx(math.log(4), abs=0.01)


@pytest.mark.parametrize("power", [0.5, 9.0])
def test_wrong_power(power: float) -> None:
    with pytest.raises(ValueError, match="power must be"):
        LogSumLoss(power)
