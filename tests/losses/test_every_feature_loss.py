"""What every loss of pairs of feature maps has in common."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from freqkd.losses import (
    AMRadioLoss,
    CosineLoss,
    FourierKDLoss,
    InstanceNormMSELoss,
    LogSumLoss,
    PKDLoss,
    RelaxedLowLoss,
    SimilarityKLLoss,
    WeightedMSELoss,
)


class Weighted(nn.Module):
    """`WeightedMSELoss` with weights that fall from left to right."""

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss = WeightedMSELoss(loss_weight)

    def forward(self, students: Tensor | list[Tensor], teachers: Tensor | list[Tensor]) -> Tensor:
        levels = [students] if isinstance(students, Tensor) else students
        weights = [torch.linspace(1, 0.1, x.shape[3]).expand(x.shape[0], 1, *x.shape[2:]) for x in levels]
        return self.loss(students, teachers, weights)


KINDS = {
    "cosine": CosineLoss,
    "am-radio": AMRadioLoss,
    "weighted-mse": Weighted,
    "instance-norm-mse": InstanceNormMSELoss,
    "similarity-kl": SimilarityKLLoss,
    "log-sum": LogSumLoss,
}
OTHERS = {
    "pkd": PKDLoss,
    "fourierkd": partial(FourierKDLoss, channels=4, num_levels=1),
    "relaxed-low": RelaxedLowLoss,
}
each = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@each
def test_zero_where_equal_weighted_and_added_over_levels(kind: type[nn.Module]) -> None:
    student, teacher = torch.randn(2, 2, 3, 7, 5)
    loss = kind(loss_weight=0.5)
    assert loss(student, student.clone()).item() == pytest.approx(0, abs=1e-6)
    value = loss(student, teacher).item()
    assert value > 0.05
    assert kind()(student, teacher).item() == pytest.approx(2 * value)
    small = teacher[..., :4, :3]
    together = loss([student, student[..., :4, :3]], [teacher, small])
    assert together.item() == pytest.approx(value + loss(student[..., :4, :3], small).item())


@each
def test_gradients_reach_the_student_alone(kind: type[nn.Module]) -> None:
    student, teacher = torch.randn(2, 2, 3, 3, 2, dtype=torch.float64)
    teacher.requires_grad_()
    loss = kind()
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), student.requires_grad_())
    loss(student, teacher).backward()
    assert student.grad.norm() > 0
    assert teacher.grad is None


@each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(kind: type[nn.Module], dtype: torch.dtype) -> None:
    student, teacher = (torch.randn(2, 3, 8, 8).mul(300).to(dtype) for _ in range(2))  # squares overflow float16
    student.requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        value = kind()(student, teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, kind()(student.float(), teacher.float()))
    value.backward()
    assert student.grad.isfinite().all()
    assert student.grad.norm() > 0


@each
@pytest.mark.parametrize("shape", [(1, 2, 1, 1), (2, 2, 1, 1), (1, 2, 1, 2), (1, 2, 2, 3)])
def test_small_and_flat_maps_have_small_gradients(kind: type[nn.Module], shape: tuple[int, ...]) -> None:
    for number in (0.0, 1.0):
        flat = torch.full(shape, number, requires_grad=True)
        for teacher in (torch.randn(shape), torch.zeros(shape), torch.ones(shape)):
            value = kind()(flat, teacher)
            (grad,) = torch.autograd.grad(value, flat)
            assert value.isfinite()
            assert grad.abs().max() < 20


@each
def test_a_position_without_features_has_no_large_gradient(kind: type[nn.Module]) -> None:
    """A backbone's ReLU may leave a position 0 in all channels: a division by its length would outweigh all others."""
    student, teacher = torch.randn(2, 1, 4, 6, 6)
    student[..., 2, 3] = 0
    student.requires_grad_()
    (grad,) = torch.autograd.grad(kind()(student, teacher), student)
    assert grad[..., 2, 3].norm() <= 20 * grad.norm(dim=1).median()


@pytest.mark.parametrize("number", [0.0, 7.3, 1000.1])
@pytest.mark.parametrize("name", [name for name in KINDS | OTHERS if name != "weighted-mse"])
def test_a_constant_channel_has_no_large_gradient(name: str, number: float) -> None:
    """It is 0 behind a ReLU that is dead; other constants have a mean that is rounded, and so a tiny deviation."""
    loss = (KINDS | OTHERS)[name]()
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 2, 4, 13, 13, generator=generator)
    student[:, 1] = number
    student.requires_grad_()
    value = loss([student], [teacher])
    (grad,) = torch.autograd.grad(value, student)
    assert value.isfinite()
    norms = torch.linalg.vector_norm(grad, dim=(0, 2, 3))
    assert norms[1] <= 20 * norms.median()


@each
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_memory_order_does_not_matter(kind: type[nn.Module], order: torch.memory_format) -> None:
    student, teacher = torch.randn(2, 3, 5, 4, requires_grad=True), torch.randn(2, 3, 5, 4)
    expected = torch.autograd.grad(kind()(student, teacher), student)[0]
    laid = student.detach().contiguous(memory_format=order).requires_grad_()
    actual = torch.autograd.grad(kind()(laid, teacher.contiguous(memory_format=order)), laid)[0]
    torch.testing.assert_close(actual, expected)


@each
def test_wrong_input(kind: type[nn.Module]) -> None:
    feat, loss = torch.randn(1, 3, 4, 4), kind()
    with pytest.raises(ValueError, match="same number of maps, at least one, got 1 and 2"):
        loss([feat], [feat, feat])
    with pytest.raises(ValueError, match=r"features of level 0 must have the same"):
        loss(feat, feat[..., :2])
    if kind is not SimilarityKLLoss:
        with pytest.raises(ValueError, match=r"same shape.*ConvAlign\(student_channels=3, teacher_channels=2\)"):
            loss(feat, feat[:, :2])
