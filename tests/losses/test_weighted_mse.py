"""Mean squared error with a weight for every position."""

from __future__ import annotations

import pytest
import torch

from freqkd.losses import mse_loss, weighted_mse_loss
from freqkd.losses.weighted_mse import WeightedMSELoss


def test_it_is_the_weighted_mean_over_the_positions() -> None:
    student, teacher = torch.randn(2, 2, 3, 2, 5)
    weights = torch.rand(2, 1, 2, 5)
    total = norm = 0.0
    for image in range(2):
        for row in range(2):
            for column in range(5):
                error = (student - teacher)[image, :, row, column].square().sum().item()
                total += weights[image, 0, row, column].item() * error
                norm += weights[image, 0, row, column].item()
    assert weighted_mse_loss(student, teacher, weights).item() == pytest.approx(total / (3 * norm), rel=1e-5)


def test_equal_weights_are_the_mean_squared_error_and_a_factor_changes_nothing() -> None:
    student, teacher = torch.randn(2, 2, 3, 4, 6)
    equal, weights = torch.full((2, 1, 4, 6), 0.01), torch.rand(2, 1, 4, 6)
    assert weighted_mse_loss(student, teacher, equal).item() == pytest.approx(mse_loss(student, teacher).item())
    value = weighted_mse_loss(student, teacher, weights)
    torch.testing.assert_close(weighted_mse_loss(student, teacher, 1e-6 * weights), value)


def test_weights_of_another_size_and_of_no_object() -> None:
    student, teacher = torch.randn(2, 1, 3, 2, 2)
    fine = torch.rand(1, 1, 4, 4)
    coarse = fine.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))
    expected = weighted_mse_loss(student, teacher, coarse)
    torch.testing.assert_close(weighted_mse_loss(student, teacher, fine), expected)
    student.requires_grad_()
    nothing = weighted_mse_loss(student, teacher, torch.zeros(1, 1, 2, 2))
    nothing.backward()
    assert nothing.item() == 0
    assert student.grad.abs().max() == 0


def test_weights_have_no_gradient() -> None:
    weights = torch.rand(1, 1, 2, 2, requires_grad=True)
    weighted_mse_loss(torch.randn(1, 3, 2, 2, requires_grad=True), torch.randn(1, 3, 2, 2), weights).backward()
    assert weights.grad is None


def test_wrong_weights() -> None:
    feat = torch.randn(2, 3, 4, 4)
    with pytest.raises(
        ValueError, match=r"weight_maps must be given, got None; add adapter=dict\(type='freqkd.ScoreMaps'"
    ):
        WeightedMSELoss()(feat, feat)
    with pytest.raises(ValueError, match="weight_maps must be one for each of the 2 maps, got 1"):
        WeightedMSELoss()([feat, feat], [feat, feat], torch.ones(2, 1, 4, 4))
    with pytest.raises(ValueError, match=r"weight_maps\[0\] must have the batch size of the features, 2, got 1"):
        WeightedMSELoss()(feat, feat, torch.ones(1, 1, 4, 4))
    with pytest.raises(ValueError, match=r"weight_maps\[0\] must have 1 channels, got 3"):
        WeightedMSELoss()(feat, feat, feat)
