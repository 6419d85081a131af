"""FreeKD+ and its inverse: strict and relaxed distances of low band and details, and masks refined by the student."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from freqkd.losses import (
    FreeKDLoss,
    FreeKDPlusLoss,
    RelaxedLowLoss,
    freekd_loss,
    freekd_plus_loss,
    pkd_loss,
    refine_masks,
    relaxed_low_loss,
)
from freqkd.losses.freekd.prompts import FrequencyPrompt
from freqkd.losses.freekd.wavelets import wavedec2

SIZES = [(8, 16), (7, 11), (3, 2), (1, 1)]


def block_means(x: Tensor, side: int) -> Tensor:
    """Every position's block mean, in plain loops: the low band as a map."""
    low = torch.zeros_like(x)
    for top in range(0, x.shape[2], side):
        for left in range(0, x.shape[3], side):
            block = x[:, :, top : top + side, left : left + side]
            low[:, :, top : top + side, left : left + side] = block.mean((2, 3), keepdim=True)
    return low


def by_hand(student: Tensor, teacher: Tensor, strict: str, depth: int) -> tuple[Tensor, Tensor]:
    """The strict and the relaxed part: squared block means, or what they leave."""
    variance = (teacher - teacher.mean((0, 2, 3), keepdim=True)).square().mean()
    count = student[:, 0].numel()
    unit = [
        (x - x.mean((0, 2, 3), keepdim=True)) / (x.std((0, 2, 3), keepdim=True) + 1e-6) if count > 1 else 0 * x
        for x in (student, teacher)
    ]
    found = []
    for difference, kind in ((student - teacher, strict), (unit[0] - unit[1], "details" if strict == "low" else "low")):
        low = block_means(difference, 2**depth)
        found.append((low if kind == "low" else difference - low).square().mean())
    return found[0] / torch.maximum(variance, 1e-3 * teacher.square().mean()), found[1]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("depth", [1, 3])
def test_both_are_what_block_means_give(size: tuple[int, int], depth: int) -> None:
    student, teacher = torch.randn(2, 2, 3, *size, dtype=torch.float64) * 2 + 0.5
    strict, relaxed = by_hand(student, teacher, "low", depth)
    found = freekd_plus_loss(student, teacher, depth=depth, low_weight=3.0, details_weight=0.5)
    torch.testing.assert_close(found, 3 * strict + 0.5 * relaxed)
    strict, relaxed = by_hand(student, teacher, "details", depth)
    found = relaxed_low_loss(student, teacher, depth=depth, low_weight=0.5, details_weight=3.0)
    torch.testing.assert_close(found, 0.5 * relaxed + 3 * strict)


def test_the_inverse_is_the_two_terms_of_the_study_of_forms() -> None:
    """`details+low-by-both` of studies/_base_/forms.py, whose weights are ratios; its low band pads at odd borders."""
    student, teacher = torch.randn(2, 2, 3, 16, 24, dtype=torch.float64)
    details = freekd_loss(student, teacher, norm="l2", combine="none", band_weights="details")
    low = freekd_loss(student, teacher, norm="l2", combine="none", band_weights=[1 / 64, 0, 0, 0], standardize="both")
    torch.testing.assert_close(relaxed_low_loss(student, teacher, details_weight=0), low)
    variance = teacher.var((0, 2, 3), correction=0).mean()
    torch.testing.assert_close(relaxed_low_loss(student, teacher, low_weight=0), details / variance)


def test_strict_and_relaxed_parts_are_mse_and_pkd() -> None:
    student, teacher = torch.randn(2, 2, 3, 9, 10, dtype=torch.float64)
    relaxed = freekd_plus_loss(student, teacher, low_weight=0) + relaxed_low_loss(student, teacher, details_weight=0)
    torch.testing.assert_close(relaxed, 2 * pkd_loss(student, teacher))
    strict = freekd_plus_loss(student, teacher, details_weight=0) + relaxed_low_loss(student, teacher, low_weight=0)
    variance = teacher.var((0, 2, 3), correction=0).mean()
    torch.testing.assert_close(strict, (student - teacher).square().mean() / variance)


def test_what_each_of_them_does_not_see() -> None:
    student, teacher = torch.randn(2, 2, 3, 16, 16, dtype=torch.float64)
    scale = torch.rand(3, 1, 1, dtype=torch.float64) + 0.5
    details, low = dict(low_weight=0.0), dict(details_weight=0.0)
    for loss, relaxed, strict in ((freekd_plus_loss, details, low), (relaxed_low_loss, low, details)):
        moved = loss(student * scale + 3, teacher, **relaxed)
        torch.testing.assert_close(moved, loss(student, teacher, **relaxed), rtol=1e-5, atol=0)
        assert loss(student * scale + 3, teacher, **strict).item() != pytest.approx(
            loss(student, teacher, **strict).item()
        )
        assert loss(teacher.clone(), teacher).item() == pytest.approx(0, abs=1e-12)
        torch.testing.assert_close(loss(10 * student, 10 * teacher), loss(student, teacher), rtol=1e-4, atol=0)


@pytest.mark.parametrize("loss", [freekd_plus_loss, relaxed_low_loss])
def test_gradients(loss) -> None:
    student, teacher = torch.randn(2, 2, 2, 3, 5, dtype=torch.float64)
    teacher.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher, depth=2), student.requires_grad_())
    loss(student, teacher, depth=2).backward()
    assert teacher.grad is None


@pytest.mark.parametrize("kind", [FreeKDPlusLoss, RelaxedLowLoss])
@pytest.mark.parametrize("maps", [torch.full((2, 3, 6, 6), 7.3), torch.zeros(1, 3, 4, 4), torch.randn(1, 3, 1, 1)])
def test_constant_maps_and_one_position_are_finite(kind, maps: Tensor) -> None:
    options = dict(preset="details") if kind is FreeKDPlusLoss else {}
    for student, teacher in ((torch.randn_like(maps), maps), (maps.clone(), torch.randn_like(maps))):
        student.requires_grad_()
        value = kind(**options)(student, teacher)
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(student.grad).all()
        if student.std() > 0.1:  # a constant student is divided by PKD's 1e-6
            assert student.grad.abs().max() < 1e4


# ---- masks ----------------------------------------------------------------------------------------------------------


def trained_prompt(channels: int = 4, depth: int = 2, **options) -> FrequencyPrompt:
    prompt = FrequencyPrompt(channels, depth=depth, **options)
    torch.nn.init.normal_(prompt.tokens)
    return prompt


def test_refined_masks_are_stronger_where_the_student_does_not_look() -> None:
    teacher, student = torch.rand(2, 3, 2, 5, 6, dtype=torch.float64)
    [found] = refine_masks([student], [teacher])
    for n in range(3):
        for t in range(2):
            stronger = teacher[n, t] + teacher[n, t] * (teacher[n, t] - student[n, t]).abs()
            torch.testing.assert_close(found[n, t], stronger / stronger.mean() * teacher[n, t].mean())


def test_refined_masks_do_not_collapse() -> None:
    """Whatever the student does: the teacher's mean, at least half and at most twice the teacher's mask, no gradient."""
    for student in (torch.zeros(2, 2, 4, 4), torch.ones(2, 2, 4, 4), torch.rand(2, 2, 4, 4)):
        teacher = torch.rand(2, 2, 4, 4)
        [found] = refine_masks([student.requires_grad_()], [teacher])
        torch.testing.assert_close(found.mean((2, 3)), teacher.mean((2, 3)))
        assert (found >= teacher / 2).all()
        assert (found <= teacher * 2).all()
        assert not found.requires_grad
    assert torch.equal(refine_masks([teacher], [teacher])[0], teacher)
    assert torch.equal(refine_masks([teacher], [0 * teacher])[0], 0 * teacher)  # masks that underflow


@pytest.mark.parametrize("options", [{}, dict(tokens_per="scale"), dict(score="magnitude")])
def test_a_prompt_makes_the_masks_of_both_networks(options: dict[str, str]) -> None:
    student, teacher = torch.randn(2, 2, 4, 9, 12)
    prompt = trained_prompt(**options)
    masks = refine_masks(*(prompt.masks(wavedec2(x, level=2)) for x in (student, teacher)))
    found = freekd_plus_loss(student, teacher, prompt, depth=2)
    torch.testing.assert_close(found, freekd_plus_loss(student, teacher, masks, depth=2))
    plain = freekd_plus_loss(student, teacher, prompt, depth=2, refine=False)
    torch.testing.assert_close(
        plain, freekd_plus_loss(student, teacher, prompt.masks(wavedec2(teacher, level=2)), depth=2)
    )
    assert found.item() != pytest.approx(plain.item(), rel=1e-4)


def test_the_student_cannot_change_the_masks_to_lower_the_loss() -> None:
    student, teacher = torch.randn(2, 1, 4, 8, 8, dtype=torch.float64)
    prompt = trained_prompt().double().requires_grad_(False)
    student.requires_grad_()
    masks = refine_masks(*(prompt.masks(wavedec2(x.detach(), level=2)) for x in (student, teacher)))
    (given,) = torch.autograd.grad(freekd_plus_loss(student, teacher, masks, depth=2), student)
    (made,) = torch.autograd.grad(freekd_plus_loss(student, teacher, prompt, depth=2), student)
    torch.testing.assert_close(made, given)


# ---- modules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("relation", ["none", "attention", "local", "gate"])
def test_the_module_is_the_function_of_every_level(relation: str) -> None:
    loss = FreeKDPlusLoss(4, 2, relation=relation, depth=2, low_weight=2.0, loss_weight=0.5)
    state = FreeKDLoss(4, 2, relation=relation, depth=2).state_dict()  # of the same prompt stage
    loss.load_prompts({name: torch.randn_like(value) for name, value in state.items()})
    students, teachers = ([torch.randn(2, 4, 9, 12), torch.randn(2, 4, 5, 6)] for _ in range(2))
    if relation == "none":
        levels = zip(students, teachers, loss.prompts)
        expected = sum(freekd_plus_loss(*level, depth=2, low_weight=2.0) for level in levels)
        torch.testing.assert_close(loss(students, teachers), 0.5 * expected)
    assert loss(students, [x.clone() for x in students]).item() == pytest.approx(0, abs=1e-5)
    assert loss(students, teachers).item() > 0.1
    assert loss.needs_prompts
    assert not any(value.requires_grad for value in loss.parameters())


def test_weight_maps_take_the_place_of_masks() -> None:
    student, teacher = torch.randn(2, 2, 4, 8, 8)
    loss = FreeKDPlusLoss(preset="details", depth=2)
    assert not loss.needs_prompts
    plain = loss(student, teacher)
    torch.testing.assert_close(loss(student, teacher, weight_maps=torch.full((2, 1, 8, 8), 0.5)), plain / 4)
    torch.testing.assert_close(
        RelaxedLowLoss(loss_weight=2.0)([student] * 2, [teacher] * 2), 4 * relaxed_low_loss(student, teacher)
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FreeKDPlusLoss(), "channels and num_levels must both be given"),
        (lambda: FreeKDPlusLoss(4, 1, refine="no"), "refine must be True or False, got 'no'"),
        (lambda: FreeKDPlusLoss(4, 1, low_weight=-1), "low_weight must be at least 0, got -1"),
        (lambda: RelaxedLowLoss(depth=0), "depth must be at least 1, got 0"),
        (lambda: relaxed_low_loss(torch.ones(1, 2, 3, 3), torch.ones(1, 4, 3, 3)), "add an align"),
        (lambda: freekd_plus_loss(torch.ones(1, 2, 3, 3), torch.ones(1, 4, 3, 3)), "add an align"),
        (
            lambda: FreeKDPlusLoss(preset="whitened"),
            "preset must be one of 'paper', 'official', 'details', got 'whitened'",
        ),
    ],
)
def test_wrong_arguments_are_refused(make, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        make()
