"""The fused L1 distance of Haar subbands: tiles, scales, gradients of any use, the precision of the student."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from freqkd.losses.freekd.fused import distance as module
from freqkd.losses.freekd.fused.distance import distances_and_gradients, haar_distance
from freqkd.losses.freekd.fused.strips import Strips
from freqkd.losses.freekd.fused.weights import weights_of_masks
from freqkd.losses.freekd.loss import FreeKDLoss, freekd_loss

SIZES = [(16, 24), (13, 21), (40, 9), (1, 1), (2, 3)]
MEANS = [1.0] * 4  # of the low band and of three scales


def _pyramid(layout: torch.memory_format) -> tuple[list[Tensor], list[Tensor], list[list[Tensor]], list[Tensor]]:
    """Return students, teachers, masks of every band and channel weights for maps of all sizes."""
    students, teachers = (
        [torch.randn(2, 5, *size, dtype=torch.float64).contiguous(memory_format=layout) for size in SIZES]
        for _ in range(2)
    )
    depths = [3] + [1 + i // 3 for i in range(9)]
    masks = [
        [torch.rand(2, 2, *(-(-side // 2**depth) for side in size), dtype=torch.float64) for depth in depths]
        for size in SIZES
    ]
    return students, teachers, masks, [torch.randn(2, 5, dtype=torch.float64) for _ in SIZES]


@pytest.mark.parametrize("tile", [1, 5 * 2 * 24 * 8 * 2, 2**16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("weighted", [True, False])
def test_a_pyramid_is_its_maps_whatever_the_tiles(monkeypatch, tile: int, layout, weighted: bool) -> None:
    monkeypatch.setattr(module, "TILE", tile)
    students, teachers, masks, omegas = _pyramid(layout)
    weights = [weights_of_masks(mask, student, MEANS) for mask, student in zip(masks, students)]
    canvas, used = torch.cat([weight for weight, _ in weights], -1), omegas if weighted else []
    losses, gradients = distances_and_gradients(students, teachers, canvas, used, 3)
    for index, student in enumerate(students):
        student.requires_grad_()
        omega = omegas[index] if weighted else None
        expected = freekd_loss(student, teachers[index], masks[index], omega, fused=False)
        (scale,) = weights[index][1]
        torch.testing.assert_close(scale * losses[index], expected)
        torch.testing.assert_close(scale * gradients[index], torch.autograd.grad(expected, student)[0])


def test_scales_and_sum_of_a_pyramid() -> None:
    students, teachers, masks, _ = _pyramid(torch.channels_last)
    canvas = torch.cat([weights_of_masks(mask, student, MEANS)[0] for mask, student in zip(masks, students)], -1)
    losses, gradients = distances_and_gradients(students, teachers, canvas, [], 3)
    scales = [float(i + 1) for i in range(len(students))]
    for student in students:
        student.requires_grad_()
    total = haar_distance(students, teachers, canvas, depth=3, scales=scales)
    torch.testing.assert_close(total, sum(scale * loss for scale, loss in zip(scales, losses)))
    for scale, found, gradient in zip(scales, torch.autograd.grad(total, students), gradients):
        torch.testing.assert_close(found, scale * gradient)


def test_equal_coefficients_have_no_gradient() -> None:
    teacher = torch.randn(1, 3, 9, 9)
    student = teacher.clone().requires_grad_()
    freekd_loss(student, teacher).backward()
    assert torch.equal(student.grad, torch.zeros_like(student))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_coefficients_that_cancel_have_no_sign(layout: torch.memory_format) -> None:
    """Rows that are equal have no LH and HH, whatever they hold."""
    teacher = torch.randn(1, 3, 1, 16).expand(1, 3, 16, 16).contiguous(memory_format=layout)
    student = torch.zeros(1, 3, 16, 16, requires_grad=True)
    losses = [freekd_loss(student, teacher, fused=fused) for fused in (True, False)]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*[torch.autograd.grad(loss, student)[0] for loss in losses])


@pytest.mark.parametrize(
    "options", [{}, dict(norm="l2", band_weights="details"), dict(norm="l2", band_weights="whitened")]
)
def test_gradient_survives_a_second_backward_and_scales(options) -> None:
    student, teacher = torch.randn(2, 2, 5, 13, 21, dtype=torch.float64)
    student.requires_grad_()
    loss = freekd_loss(student, teacher, **options)
    once = torch.autograd.grad(loss, student, retain_graph=True)[0]
    kept = once.clone()
    again = torch.autograd.grad(loss * 3, student)[0]
    torch.testing.assert_close(again, 3 * kept)
    assert torch.equal(once, kept)


@pytest.mark.parametrize(
    "options", [{}, dict(norm="l2", band_weights="details"), dict(norm="l2", band_weights="whitened")]
)
def test_a_batch_of_upstream_gradients(options) -> None:
    student, teacher = torch.randn(2, 2, 5, 13, 21, dtype=torch.float64)
    student.requires_grad_()
    once = torch.autograd.grad(freekd_loss(student, teacher, **options), student)[0]
    scales = torch.tensor([1.0, 3.0], dtype=torch.float64)
    loss = freekd_loss(student, teacher, **options)
    many = torch.autograd.grad(loss, student, scales, is_grads_batched=True)[0]
    torch.testing.assert_close(many, torch.stack([once, 3 * once]))


def test_half_gradient_does_not_underflow() -> None:
    student = torch.randn(1, 64, 128, 128).half().requires_grad_()  # 1 / numel is below the smallest half
    teacher = torch.randn(1, 64, 128, 128).half()
    loss = freekd_loss(student, teacher)
    gradient = torch.autograd.grad(loss * 2.0**16, student)[0].float() / 2**16
    full = student.detach().float().requires_grad_()
    expected = torch.autograd.grad(freekd_loss(full, teacher.float()), full)[0]
    assert gradient.abs().min() > 0 or expected.abs().min() == 0
    torch.testing.assert_close(gradient, expected, rtol=2e-3, atol=expected.abs().max().item() * 2e-3)


def test_the_student_decides_the_precision() -> None:
    loss = FreeKDLoss(2, 2, relation="none")
    students = [torch.randn(1, 2, 6, 5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    teachers = [torch.randn(1, 2, 6, 5), torch.randn(1, 2, 6, 5, dtype=torch.float64)]
    assert loss(students, teachers).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda *maps: loss(maps, teachers), students)
    single = [student.detach().float() for student in students]
    assert loss(single, [teachers[1], teachers[0]]).dtype == torch.float32


def test_no_gradient_for_teacher_weights_and_masks() -> None:
    student, teacher, weights = (torch.randn(1, 2, 8, 8, requires_grad=True) for _ in range(3))
    haar_distance([student], [teacher], weights[:, :1]).backward()
    assert student.grad.norm() > 0
    assert teacher.grad is None
    assert weights.grad is None


def test_the_padding_of_a_canvas_is_cleared_whatever_lay_there() -> None:
    maps = [torch.rand(2, 3, *size) + 1 for size in SIZES]
    strips = Strips.of(maps, 3)
    canvas = torch.full((2, 3, 8, strips.begins[-1]), torch.nan)
    for piece in strips.whole():
        strips.clear_padding(canvas, piece)
        for place, part in strips.match(canvas, piece, maps[piece.index]):
            place.copy_(part)
    torch.testing.assert_close(canvas.sum(), sum(x.sum() for x in maps))
