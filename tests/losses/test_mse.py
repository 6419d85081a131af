"""Mean squared error, and the L2 distance of FitNets."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from freqkd.losses.freekd.wavelets import wavedec2
from freqkd.losses.mse import L2Loss, MSELoss, l2_loss, mse_loss

LOSSES = [MSELoss(0.5), L2Loss(loss_weight=0.5), L2Loss(False, reduction="norm", loss_weight=0.5)]
L2_KINDS = {
    "l2_norm": {},
    "l2_raw": {"normalize": False},
    "l2_elem": {"normalize": False, "reduction": "mean"},
    "l2_dist": {"normalize": False, "reduction": "norm"},
    "l2_norm_mult": {"mult": 3.0},
}
by_name = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_mse_equals_the_released_program(feature_case, seed: int) -> None:
    case = feature_case("mse_official", seed)
    students, teachers = case.pyramids()
    value = MSELoss(case.number("loss_weight"))(students, teachers)
    assert value.item() == pytest.approx(case.number("loss_mse"), rel=1e-5, abs=1e-7)
    for level, grad in enumerate(torch.autograd.grad(value, students)):
        torch.testing.assert_close(grad, case.array("grad_s", level), rtol=1e-5, atol=1e-7)
        for key, options in L2_KINDS.items():
            distance = l2_loss(students[level], teachers[level], **options)
            assert distance.item() == pytest.approx(case.number(f"l{level}.{key}"), rel=1e-5, abs=1e-7)
            assert L2Loss(**options)(students[level], teachers[level]) == distance


def test_by_hand() -> None:
    student = torch.tensor([[[[1.0, 2.0], [3.0, 5.0]]]])
    teacher = torch.tensor([[[[1.0, 0.0], [0.0, 2.0]]]])
    assert mse_loss(student, teacher).item() == pytest.approx(22 / 4)
    assert mse_loss([student, student], [teacher, student]).item() == pytest.approx(22 / 4)
    assert l2_loss(student, teacher, normalize=False).item() == pytest.approx(22)
    assert l2_loss(student, teacher, mult=2.0).item() == pytest.approx(4 * (2 - 2 * 11 / (39 * 5) ** 0.5))


def test_mse_is_the_error_of_all_haar_bands() -> None:
    student, teacher = torch.randn(2, 2, 3, 16, 24, dtype=torch.float64)
    low, details = wavedec2(student - teacher)
    total = low.square().sum() + sum(d.square().sum() for d in details)
    torch.testing.assert_close(mse_loss(student, teacher), total / student.numel())


@by_name
def test_zero_iff_equal_and_weighted(loss: torch.nn.Module) -> None:
    student, teacher = torch.randn(2, 2, 3, 8, 8)
    assert loss(student, student.clone()).item() == pytest.approx(0, abs=1e-6)
    value = loss(student, teacher).item()
    assert value > 0.1
    torch.testing.assert_close(loss([student, student], [teacher, teacher]).item(), 2 * value)
    loss.loss_weight, before = 1.0, loss.loss_weight
    assert loss(student, teacher).item() == pytest.approx(value / before)
    loss.loss_weight = before


@by_name
def test_no_gradient_reaches_the_teacher(loss: torch.nn.Module) -> None:
    student, teacher = (torch.randn(1, 3, 4, 4, requires_grad=True) for _ in range(2))
    loss(student, teacher).backward()
    assert student.grad.norm() > 0
    assert teacher.grad is None


@pytest.mark.parametrize("function", [mse_loss, l2_loss])
def test_gradients(function) -> None:
    student, teacher = torch.randn(2, 2, 2, 3, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: function(s, teacher), student.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@by_name
def test_half_precision(loss: torch.nn.Module, dtype: torch.dtype) -> None:
    student, teacher = (torch.randn(2, 3, 8, 8).mul(300).to(dtype) for _ in range(2))  # squares overflow float16
    student.requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        value = loss(student, teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(student.float(), teacher.float()))
    value.backward()
    assert student.grad.isfinite().all()
    assert student.grad.norm() > 0


@by_name
@pytest.mark.parametrize("shape", [(1, 2, 1, 1), (1, 2, 2, 3)])
def test_small_and_flat_maps_stay_finite(loss: torch.nn.Module, shape: tuple[int, ...]) -> None:
    flat: Tensor = torch.ones(shape, requires_grad=True)
    for teacher in (torch.randn(shape), torch.zeros(shape), torch.ones(shape)):
        value = loss(flat, teacher)
        (grad,) = torch.autograd.grad(value, flat)
        assert value.isfinite()
        assert grad.isfinite().all()


def test_wrong_input() -> None:
    feat = torch.randn(1, 3, 4, 4)
    for loss in LOSSES:
        with pytest.raises(ValueError, match=r"same shape.*ConvAlign\(student_channels=3, teacher_channels=2\)"):
            loss(feat, feat[:, :2])
        with pytest.raises(ValueError, match="same number of maps, at least one, got 1 and 2"):
            loss([feat], [feat, feat])
    with pytest.raises(ValueError, match=r"features of level 1 .*\(1, 3, 4, 4\) and \(1, 3, 2, 2\)"):
        mse_loss([feat, feat], [feat, feat[..., :2, :2]])
    with pytest.raises(ValueError, match="reduction must be one of 'batch', 'mean', 'norm', got 'sum'"):
        L2Loss(reduction="sum")


@pytest.mark.parametrize("student_order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("teacher_order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("loss", [MSELoss(), L2Loss(normalize=False), L2Loss(False, reduction="mean")])
def test_gradients_lie_in_memory_as_the_student_does(loss, student_order, teacher_order) -> None:
    student, teacher = torch.randn(2, 3, 5, 4, requires_grad=True), torch.randn(2, 3, 5, 4)
    expected = torch.autograd.grad(loss(student, teacher), student)[0]
    laid = student.detach().contiguous(memory_format=student_order).requires_grad_()
    actual = torch.autograd.grad(loss(laid, teacher.contiguous(memory_format=teacher_order)), laid)[0]
    torch.testing.assert_close(actual, expected)
    assert actual.is_contiguous(memory_format=student_order)
