"""The walk that gives loss and gradient at once, against the formula and autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from freqkd.losses import haar_compiled
from freqkd.losses import haar_distance as module
from freqkd.losses.frequency import FreeKDLoss, freekd_loss
from freqkd.losses.haar_compiled import canvas_gradient, compiled_canvas_gradient, gradient_of
from freqkd.losses.haar_distance import haar_distance, stream_gradient
from freqkd.losses.haar_strips import Strips
from freqkd.losses.haar_weights import nest_weights, point_weights
from freqkd.prompts import FrequencyPrompt

SIZES = [(16, 24), (13, 21), (40, 9), (1, 1), (2, 3)]


def _case(size: tuple[int, int], layout: torch.memory_format, bands: str) -> tuple[Tensor, Tensor, list[Tensor]]:
    torch.manual_seed(0)
    student, teacher = (torch.randn(2, 5, *size, dtype=torch.float64).contiguous(memory_format=layout) for _ in "st")
    depths = [3] + [1 + i // 3 for i in range(9)] if bands == "subband" else [3, 1, 2, 3]
    shapes = [tuple(-(-side // 2**depth) for side in size) for depth in depths]
    return student, teacher, [torch.rand(2, 2, *shape, dtype=torch.float64) for shape in shapes]


def _reference(
    student: Tensor,
    teacher: Tensor,
    masks: list[Tensor] | None,
    omega: Tensor | None,
    depth: int,
    include_low: bool,
    orientations: str,
) -> tuple[Tensor, Tensor]:
    student = student.clone().requires_grad_()
    weights = [float(include_low)] + [1.0 if orientations == "sum" else 1 / 3] * 3 * depth
    loss = freekd_loss(student, teacher, masks, omega, band_weights=weights, depth=depth, fused=False)
    return loss.detach(), torch.autograd.grad(loss, student)[0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bands", ["subband", "level"])
@pytest.mark.parametrize("include_low", [True, False])
@pytest.mark.parametrize("orientations", ["sum", "mean"])
@pytest.mark.parametrize("weighted", [True, False])
def test_both_walks_equal_the_formula(size, layout, bands, include_low, orientations, weighted) -> None:
    student, teacher, masks = _case(size, layout, bands)
    omega = torch.randn(2, 5, dtype=torch.float64) if weighted else None  # a negative weight counts by its size
    expected, gradient = _reference(student, teacher, masks, omega, 3, include_low, orientations)
    weights, (scale,) = nest_weights(masks, student, 3, include_low, orientations)
    (streamed,), (ahead,) = stream_gradient([student], [teacher], weights, [omega] if weighted else [], 3)
    for loss, found in ((streamed, ahead), gradient_of(student, teacher, weights, omega, 3)):
        torch.testing.assert_close(loss * scale, expected)
        torch.testing.assert_close(found * scale, gradient)


@pytest.mark.parametrize("level", [1, 2, 4])
def test_other_levels_and_no_masks(level: int) -> None:
    student, teacher, _ = _case((19, 33), torch.contiguous_format, "subband")
    student.requires_grad_()
    loss = freekd_loss(student, teacher, depth=level)
    expected, gradient = _reference(student.detach(), teacher, None, None, level, True, "sum")
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, student)[0], gradient)


def _pyramid(layout: torch.memory_format) -> tuple[list[Tensor], list[Tensor], Tensor, list[Tensor]]:
    """Two pyramids, their weights on one canvas, and channel weights."""
    cases = [_case(size, layout, "subband") for size in SIZES]
    students, teachers = ([case[i] for case in cases] for i in (0, 1))
    weights = [nest_weights(masks, student, 3, True, "sum")[0] for student, _, masks in cases]
    return students, teachers, torch.cat(weights, -1), [torch.rand(2, 5, dtype=torch.float64) for _ in cases]


@pytest.mark.parametrize("tile", [1, 5 * 2 * 24 * 8 * 2, 2**16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("weighted", [True, False])
def test_a_pyramid_is_its_maps_whatever_the_tiles(monkeypatch, tile: int, layout, weighted: bool) -> None:
    students, teachers, weights, omegas = _pyramid(layout)
    monkeypatch.setattr(module, "TILE", tile)
    monkeypatch.setattr(module, "compiled_canvas_gradient", lambda dynamic: canvas_gradient)
    own = weights.split(Strips.of(students, 3).lengths, -1)
    expected = [
        gradient_of(student, teacher, weight, omega if weighted else None, 3)
        for student, teacher, weight, omega in zip(students, teachers, own, omegas)
    ]
    for compiled in (False, True):  # the expression that is compiled, in place of the kernel
        losses, gradients = stream_gradient(students, teachers, weights, omegas if weighted else [], 3, compiled)
        for loss, gradient, (wanted, reference) in zip(losses, gradients, expected, strict=True):
            torch.testing.assert_close(loss, wanted)
            torch.testing.assert_close(gradient, reference)


def test_scales_and_sum_of_a_pyramid() -> None:
    students, teachers, weights, _ = _pyramid(torch.channels_last)
    scales = [float(i + 1) for i in range(len(students))]
    for student in students:
        student.requires_grad_()
    losses, gradients = stream_gradient([x.detach() for x in students], teachers, weights, [], 3)
    total = haar_distance(students, teachers, weights, level=3, scales=scales)
    torch.testing.assert_close(total, sum(scale * loss for scale, loss in zip(scales, losses)))
    for scale, found, gradient in zip(scales, torch.autograd.grad(total, students), gradients):
        torch.testing.assert_close(found, scale * gradient)


def test_equal_coefficients_have_no_gradient() -> None:
    teacher = torch.randn(1, 3, 9, 9)
    student = teacher.clone().requires_grad_()
    freekd_loss(student, teacher).backward()
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_gradient_survives_a_second_backward_and_scales() -> None:
    student, teacher, masks = _case((13, 21), torch.channels_last, "subband")
    student.requires_grad_()
    loss = freekd_loss(student, teacher, masks)
    once = torch.autograd.grad(loss, student, retain_graph=True)[0]
    again = torch.autograd.grad(loss * 3, student)[0]
    torch.testing.assert_close(again, 3 * once)


def test_a_batch_of_upstream_gradients() -> None:
    student, teacher, _ = _case((13, 21), torch.channels_last, "subband")
    student.requires_grad_()
    once = torch.autograd.grad(freekd_loss(student, teacher), student)[0]
    scales = torch.tensor([1.0, 3.0], dtype=torch.float64)
    many = torch.autograd.grad(freekd_loss(student, teacher), student, scales, is_grads_batched=True)[0]
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


@pytest.mark.usefixtures("compiler")
def test_a_whole_loss_compiles_without_a_break() -> None:
    """Under somebody else's compiler the expression is traced, the walk in place is not."""
    torch.compiler.reset()
    torch.manual_seed(0)
    loss = FreeKDLoss(4, 2, relation="none")
    loss.load_prompts({name: torch.randn_like(value) for name, value in loss.state_dict().items()})
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    students = [torch.randn(1, 4, *size, requires_grad=True) for size in ((16, 24), (13, 9))]
    teachers = [torch.randn(1, 4, *size) for size in ((16, 24), (13, 9))]
    expected, actual = loss(students, teachers), compiled(students, teachers)
    torch.testing.assert_close(actual, expected)
    for ours, theirs in zip(torch.autograd.grad(actual, students), torch.autograd.grad(expected, students)):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("bands", ["subband", "level"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_weights_of_tokens_equal_those_of_masks(bands: str, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    teachers = [torch.randn(2, 5, *size, dtype=torch.float64).contiguous(memory_format=layout) for size in SIZES]
    prompts = [FrequencyPrompt(5, 3, 3, bands).double() for _ in teachers]
    for prompt in prompts:
        prompt.tokens.data.normal_()
        prompt._warned = True
    for include_low, orientations in ((True, "sum"), (False, "mean")):
        tokens = [prompt.tokens.detach() for prompt in prompts]
        weights, scales = point_weights(teachers, tokens, 3, include_low, orientations)
        for prompt, teacher, scale, own in zip(
            prompts, teachers, scales, weights.split(Strips.of(teachers, 3).lengths, -1), strict=True
        ):
            expected, (wanted,) = nest_weights(prompt.mean_masks(teacher), teacher, 3, include_low, orientations)
            assert scale == wanted
            inside = expected > 0  # positions that exist; where there is none, coefficients are zero
            torch.testing.assert_close(own[inside], expected[inside])
            assert own.shape == expected.shape
            assert own.isfinite().all()


def _last(*size: int) -> Tensor:
    return torch.randn(*size).contiguous(memory_format=torch.channels_last)


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("relation", ["none", "attention"])
def test_compiled(monkeypatch, relation: str) -> None:
    """One kernel for all sizes, equal to the walk; what lies in the scratch beyond the maps does not show."""
    torch.compiler.reset()
    compiled_canvas_gradient.cache_clear()
    torch.manual_seed(0)
    plain, fast = (FreeKDLoss(8, 3, 3, depth=1, relation=relation, compiled=compiled) for compiled in (False, True))
    state = {name: torch.randn_like(value) for name, value in plain.state_dict().items()}
    plain.load_prompts(state)
    fast.load_prompts(state)
    kernels = []
    monkeypatch.setattr(
        module, "compiled_canvas_gradient", lambda dynamic: kernels.append(dynamic) or compiled_canvas_gradient(dynamic)
    )
    monkeypatch.setattr(module, "TILE", 8 * 2 * 2 * 16)
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *shape, **how: empty(*shape, **how).fill_(torch.nan))
    for sizes in (((11, 13), (6, 7), (3, 4)), ((24, 17), (12, 9), (1, 1))):
        students = [_last(2, 8, *size).requires_grad_() for size in sizes]
        teachers = [_last(2, 8, *size) for size in sizes]
        expected, actual = plain(students, teachers), fast(students, teachers)
        torch.testing.assert_close(actual, expected)
        for ours, theirs in zip(torch.autograd.grad(actual, students), torch.autograd.grad(expected, students)):
            torch.testing.assert_close(ours, theirs)
    assert kernels == [False, False]


def test_shapes_beyond_a_few_are_walked(monkeypatch) -> None:
    monkeypatch.setattr(haar_compiled, "_admitted", set())
    monkeypatch.setattr(haar_compiled, "MOST", 2)
    asked = []
    monkeypatch.setattr(module, "compiled_canvas_gradient", lambda dynamic: asked.append(dynamic) or canvas_gradient)
    for batch in (1, 2, 3, 1, 4):
        maps = _last(batch, 2, 8, 8), _last(batch, 2, 8, 8)
        torch.testing.assert_close(freekd_loss(*maps, compiled=True), freekd_loss(*maps))
    assert len(asked) == 3  # batches of 1, 2 and 1 again


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_coefficients_that_cancel_have_no_sign(layout: torch.memory_format) -> None:
    rows = torch.randn(1, 3, 1, 16)
    student, teacher = torch.zeros(1, 3, 16, 16), rows.expand(1, 3, 16, 16).contiguous(memory_format=layout)
    weights, _ = nest_weights(None, student, 3, True, "sum")
    (walked,), (gradient,) = stream_gradient([student], [teacher], weights, [], 3)
    loss, ahead = gradient_of(student, teacher, weights, None, 3)
    torch.testing.assert_close(loss, walked)
    torch.testing.assert_close(ahead, gradient)


@pytest.mark.usefixtures("compiler")
def test_the_student_says_the_precision() -> None:
    loss = FreeKDLoss(4, 2, relation="none")
    students = [torch.randn(1, 4, 16, 16, dtype=torch.float64, requires_grad=True) for _ in "ab"]
    teachers = [torch.randn(1, 4, 16, 16), torch.randn(1, 4, 16, 16, dtype=torch.float64)]
    assert loss(students, teachers).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda *maps: loss(maps, teachers), students)
    single = [student.detach().float() for student in students]
    assert loss(single, [teachers[1], teachers[0]]).dtype == torch.float32


def test_no_gradient_for_teacher_weights_and_masks() -> None:
    student, teacher, weights = (torch.randn(1, 2, 8, 8, requires_grad=True) for _ in "stw")
    haar_distance([student], [teacher], weights[:, :1]).backward()
    assert student.grad is not None
    assert teacher.grad is None
    assert weights.grad is None
