"""What a local mean leaves of a difference."""

from __future__ import annotations

import pytest
import torch

from freqkd.losses import HighPassLoss, freekd_loss, high_pass_loss


def slow(difference, window):
    """The formula, position by position."""
    total, half = 0.0, window // 2
    height, width = difference.shape[2:]
    for row in range(height):
        for column in range(width):
            around = difference[
                :, :, max(row - half, 0) : row + half + 1, max(column - half, 0) : column + half + 1
            ].mean((2, 3))
            total += (difference[:, :, row, column] - around).square().sum()
    return total / difference.numel()


@pytest.mark.parametrize("size", [(6, 9), (5, 3), (1, 1), (2, 17)])
@pytest.mark.parametrize("window", [1, 3, 9])
def test_it_is_the_formula(size, window):
    student, teacher = torch.randn(2, 2, 3, *size, dtype=torch.double)
    loss = high_pass_loss([student, student], [teacher, teacher], window=window)
    assert loss.item() == pytest.approx(2 * slow(student - teacher, window).item(), abs=1e-12)


def test_a_constant_difference_gives_nothing_and_a_fine_one_almost_all_of_it():
    student = torch.randn(1, 2, 7, 10, dtype=torch.double)
    assert high_pass_loss(student, student + 5).item() == pytest.approx(0, abs=1e-12)
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    board = (1.0 - 2 * ((rows + columns) % 2)).double()[None, None]
    zeros = torch.zeros_like(board)
    details = freekd_loss(board, zeros, norm="l2", band_weights="details", combine="none")
    assert details.item() == pytest.approx(1)
    assert high_pass_loss(board, zeros).item() == pytest.approx(1, abs=0.05)


def test_gradients_reach_the_student_alone():
    student = torch.randn(1, 2, 4, 5, dtype=torch.double, requires_grad=True)
    teacher = torch.randn(1, 2, 4, 5, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: high_pass_loss(s, teacher, window=3), student)
    HighPassLoss(loss_weight=2.0)([student], [teacher]).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_half_precision_is_computed_in_float32():
    student, teacher = (100 * torch.randn(2, 1, 2, 8, 8)).half()
    loss = high_pass_loss(student, teacher)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(high_pass_loss(student.float(), teacher.float()).item())


def test_a_window_has_a_middle():
    with pytest.raises(ValueError, match="window must be odd, so that it has a middle, got 4"):
        high_pass_loss(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2), window=4)
    with pytest.raises(ValueError, match="window must be at least 1, got 0"):
        HighPassLoss(window=0)
