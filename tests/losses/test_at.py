"""AT: attention maps of both networks, whatever their channels."""

from __future__ import annotations

import pytest
import torch

from freqkd.losses import ATLoss, at_loss


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_equals_the_program_of_mmrazor(logit_case, seed: int) -> None:
    case, _ = logit_case("at_official", f"s{seed}")
    student, teacher = case["y_s"], case["y_t"]
    value = at_loss(student.requires_grad_(), teacher)
    torch.testing.assert_close(value, case["loss"], rtol=1e-5, atol=1e-7)
    (grad,) = torch.autograd.grad(value, student)
    torch.testing.assert_close(grad, case["grad_s"], rtol=1e-5, atol=1e-7)
    single = at_loss(student.detach().float(), teacher.float())
    torch.testing.assert_close(single.double(), value.detach(), rtol=2e-4, atol=0)


def test_by_hand() -> None:
    student, teacher = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[3.0, 0.0]], [[1.0, 2.0]]]])
    # energies (1, 4) and (10, 4) / 2; 1 - cosine of the two is half their squared distance
    cosine = (10 + 16) / (17 * 116) ** 0.5
    assert at_loss(student, teacher).item() == pytest.approx(2 * (1 - cosine) / 2, rel=1e-5)


def test_scale_of_an_image_and_order_of_channels_do_not_count() -> None:
    student, teacher = torch.randn(2, 2, 3, 5, 7, dtype=torch.float64)
    scale = torch.tensor([-0.3, 7.0]).reshape(2, 1, 1, 1)
    torch.testing.assert_close(at_loss(student * scale, teacher.flip(1)), at_loss(student, teacher))


def test_levels_add_up_and_the_module_weighs_them() -> None:
    students = [torch.randn(2, 3, 5, 7), torch.randn(2, 3, 3, 4)]
    teachers = [torch.randn(2, 6, 5, 7), torch.randn(2, 6, 3, 4)]
    each = [at_loss(s, t).item() for s, t in zip(students, teachers)]
    assert min(each) > 0.001
    assert ATLoss(loss_weight=10.0)(students, teachers).item() == pytest.approx(10 * sum(each), rel=1e-6)
    assert at_loss(students, [s.clone() for s in students]).item() == 0


def test_sizes_that_differ_are_resized_after_the_channels_are_gone() -> None:
    student, teacher = torch.rand(1, 2, 5, 7), torch.rand(1, 4, 10, 14)
    for resize, size in (("teacher", (10, 14)), ("student", (5, 7))):
        student_map, teacher_map = (
            torch.nn.functional.interpolate(x.square().mean(1, keepdim=True), size=size, mode="bilinear").sqrt()
            for x in (student, teacher)
        )
        torch.testing.assert_close(ATLoss(resize)(student, teacher), at_loss(student_map, teacher_map))


def test_gradients() -> None:
    student, teacher = torch.randn(2, 2, 3, 3, 4, dtype=torch.float64)
    teacher.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: at_loss(s, teacher), student.requires_grad_())
    at_loss(student, teacher).backward()
    assert teacher.grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    student, teacher = (torch.randn(2, 3, 7, 9).mul(300).to(dtype) for _ in range(2))  # squares overflow float16
    student.requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        value = at_loss(student, teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, at_loss(student.float(), teacher.float()))
    (value * 2**16).backward()
    assert student.grad.isfinite().all()
    assert student.grad.norm() > 0


@pytest.mark.parametrize("shape", [(1, 2, 1, 1), (1, 2, 2, 3)])
def test_flat_and_zero_maps_stay_finite(shape: tuple[int, ...]) -> None:
    for student in (torch.ones(shape), torch.zeros(shape)):
        value = at_loss(student.requires_grad_(), torch.randn(shape))
        (grad,) = torch.autograd.grad(value, student)
        assert value.isfinite()
        assert grad.isfinite().all()


def test_wrong_input() -> None:
    feat = torch.randn(1, 3, 4, 4)
    with pytest.raises(ValueError, match=r"level 1 .*\(1, 3, 4, 4\) and \(1, 3, 2, 2\); .* resize='teacher'"):
        at_loss([feat, feat], [feat, feat[..., :2, :2]])
    with pytest.raises(ValueError, match="the same N, H and W"):
        at_loss(feat, torch.cat([feat, feat]), resize="teacher")
    with pytest.raises(ValueError, match="same number of maps, at least one, got 1 and 2"):
        ATLoss()([feat], [feat, feat])
    for wrong in (lambda: ATLoss("teachers"), lambda: at_loss(feat, feat, resize="teachers")):
        with pytest.raises(ValueError, match="resize must be one of 'teacher', 'student'"):
            wrong()
