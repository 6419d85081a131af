"""PKD: half the squared error of standardised channels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from freqkd.losses.pkd import PKDLoss, pkd_loss


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_equals_the_program_of_mmrazor(feature_case, seed: int) -> None:
    case = feature_case("pkd_official", seed)
    students, teachers = case.pyramids()
    value = PKDLoss(resize_student=bool(case.number("resize_stu")))(students, teachers)
    assert value.item() == pytest.approx(case.number("loss"), rel=1e-5, abs=1e-7)
    for level, grad in enumerate(torch.autograd.grad(value, students)):
        torch.testing.assert_close(grad, case.array("grad_s", level), rtol=1e-5, atol=1e-7)


def test_by_hand() -> None:
    """Half the mean square of standardised values is (n - 1) / n * (1 - correlation)."""
    student = torch.tensor([[[[1.0, 2.0], [3.0, 5.0]]]])
    teacher = torch.tensor([[[[1.0, 0.0], [0.0, 2.0]]]])
    correlation = torch.corrcoef(torch.stack([student.flatten(), teacher.flatten()]))[0, 1]
    assert pkd_loss(student, teacher).item() == pytest.approx(0.75 * (1 - correlation.item()), rel=1e-5)


def test_scale_and_shift_of_a_channel_do_not_matter() -> None:
    student, teacher = torch.randn(2, 2, 3, 8, 8, dtype=torch.float64)
    scale, shift = torch.rand(2, 1, 3, 1, 1) * 9 + 1, torch.randn(2, 1, 3, 1, 1)
    moved = pkd_loss(student * scale[0] + shift[0], teacher * scale[1] + shift[1])
    torch.testing.assert_close(moved, pkd_loss(student, teacher), rtol=1e-5, atol=0)


def test_zero_iff_equal_and_weighted() -> None:
    student, teacher = torch.randn(2, 2, 3, 8, 8)
    loss = PKDLoss(loss_weight=0.5)
    assert loss(student, student.clone()).item() == pytest.approx(0, abs=1e-6)
    value = loss(student, teacher).item()
    assert value > 0.1
    torch.testing.assert_close(loss([student, student], [teacher, teacher]).item(), 2 * value)
    assert pkd_loss(student, teacher).item() == pytest.approx(value / 0.5)


def test_gradients() -> None:
    student, teacher = torch.randn(2, 2, 2, 3, 3, dtype=torch.float64)
    teacher.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: pkd_loss(s, teacher), student.requires_grad_())
    pkd_loss(student, teacher).backward()
    assert student.grad.norm() > 0
    assert teacher.grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    student, teacher = (torch.randn(2, 3, 8, 8).mul(300).to(dtype) for _ in range(2))  # squares overflow float16
    student.requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        value = pkd_loss(student, teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, pkd_loss(student.float(), teacher.float()))
    value.backward()
    assert student.grad.isfinite().all()
    assert student.grad.norm() > 0


@pytest.mark.parametrize("shape", [(1, 2, 1, 1), (1, 2, 2, 3)])
def test_small_and_flat_maps_stay_finite(shape: tuple[int, ...]) -> None:
    flat: Tensor = torch.ones(shape, requires_grad=True)
    for teacher in (torch.randn(shape), torch.zeros(shape), torch.ones(shape)):
        value = pkd_loss(flat, teacher)
        (grad,) = torch.autograd.grad(value, flat)
        assert value.isfinite()
        assert grad.isfinite().all()


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_memory_order_does_not_matter(order: torch.memory_format) -> None:
    student, teacher = torch.randn(2, 3, 5, 4, requires_grad=True), torch.randn(2, 3, 5, 4)
    expected = torch.autograd.grad(pkd_loss(student, teacher), student)[0]
    laid = student.detach().contiguous(memory_format=order).requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(pkd_loss(laid, teacher), laid)[0], expected)


def test_wrong_input() -> None:
    feat, loss = torch.randn(1, 3, 4, 4), PKDLoss()
    with pytest.raises(ValueError, match=r"same shape.*ConvAlign\(student_channels=3, teacher_channels=2\)"):
        loss(feat, feat[:, :2])
    with pytest.raises(ValueError, match="same number of maps, at least one, got 1 and 2"):
        loss([feat], [feat, feat])
