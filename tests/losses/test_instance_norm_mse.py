"""Mean squared error of instance-normalised maps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from freqkd.losses import instance_norm_mse_loss, pkd_loss


@pytest.mark.parametrize("shape", [(2, 3, 7, 5), (1, 4, 1, 3), (3, 1, 16, 16)])
def test_it_is_twice_one_minus_the_correlation_and_pkd_image_by_image(shape: tuple[int, ...]) -> None:
    student, teacher = torch.randn(2, *shape, dtype=torch.float64)
    correlations = [
        torch.corrcoef(torch.stack([s.flatten(), t.flatten()]))[0, 1].item()
        for s, t in zip(student.flatten(0, 1), teacher.flatten(0, 1))
    ]
    value = instance_norm_mse_loss(student, teacher).item()
    assert value == pytest.approx(2 * (1 - sum(correlations) / len(correlations)), rel=1e-4)
    images = [pkd_loss(s[None], t[None]).item() for s, t in zip(student, teacher)]
    count = shape[2] * shape[3]  # PKD's deviation is the unbiased one
    assert value == pytest.approx(2 * count / (count - 1) * sum(images) / len(images), rel=1e-4)


def test_it_is_the_error_of_torchs_instance_norm() -> None:
    student, teacher = torch.randn(2, 2, 3, 5, 5) * 100
    expected = F.mse_loss(F.instance_norm(student), F.instance_norm(teacher))
    torch.testing.assert_close(instance_norm_mse_loss(student, teacher), expected)


def test_scale_and_shift_of_a_channel_of_an_image_do_not_matter() -> None:
    student, teacher = torch.randn(2, 2, 3, 8, 8, dtype=torch.float64)
    scale, shift = torch.rand(2, 2, 3, 1, 1) * 9 + 1, torch.randn(2, 2, 3, 1, 1)
    moved = instance_norm_mse_loss(student * scale[0] + shift[0], teacher * scale[1] + shift[1])
    torch.testing.assert_close(moved, instance_norm_mse_loss(student, teacher), rtol=1e-5, atol=0)


def test_constant_channels() -> None:
    flat, feat = torch.ones(1, 2, 3, 3), torch.randn(1, 2, 3, 3)
    assert instance_norm_mse_loss(flat, feat).item() == pytest.approx(1, rel=1e-4)
    assert instance_norm_mse_loss(flat, 5 * flat).item() == 0
