"""Cosine distance of the channel vectors."""

from __future__ import annotations

import pytest
import torch

from freqkd.losses.cosine import CosineLoss, cosine_loss


def test_it_is_the_mean_over_the_positions() -> None:
    student, teacher = torch.randn(2, 2, 3, 2, 5)
    total = 0.0
    for image in range(2):
        for row in range(2):
            for column in range(5):
                s, t = student[image, :, row, column], teacher[image, :, row, column]
                total += 1 - (s @ t / (s.norm() * t.norm())).item()
    assert cosine_loss(student, teacher).item() == pytest.approx(total / 20, rel=1e-5)


def test_lengths_do_not_matter() -> None:
    student, teacher = torch.randn(2, 2, 3, 4, 4)
    longer = torch.rand(2, 2, 1, 4, 4) * 9 + 1
    torch.testing.assert_close(cosine_loss(longer[0] * student, longer[1] * teacher), cosine_loss(student, teacher))


def test_by_hand() -> None:
    student = torch.tensor([[[[1.0]], [[0.0]]]], requires_grad=True)
    teacher = torch.tensor([[[[1.0]], [[1.0]]]])
    loss = CosineLoss(loss_weight=2.0)([student, student], [teacher, -student])  # 45 and 180 degrees
    loss.backward()
    assert loss.item() == pytest.approx(2 * (1 - 0.5**0.5 + 2))
    torch.testing.assert_close(student.grad.flatten(), torch.tensor([0.0, -2 * 0.5**0.5]))
    assert cosine_loss(torch.zeros(1, 2, 1, 1), teacher).item() == 1
