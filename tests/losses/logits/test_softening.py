"""Softenings: temperatures, weights, schedules, and rows without deviation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from freqkd.losses.logits.softening import (
    SOFTENINGS,
    AnnealedLogits,
    DynamicTemperature,
    FixedTemperature,
    LearnedTemperature,
    NormalizedTemperature,
    StandardizedLogits,
    annealing_factor,
    build_softening,
    reversal_strength,
    standardize_logits,
)

torch.set_num_threads(1)


def _logits(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = shape or (6, 5)
    student, teacher = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return student, 3 * teacher


def test_fixed_divides_both_and_weighs_by_the_square() -> None:
    student, teacher = _logits()
    pair = FixedTemperature(2.0)(student, teacher)
    torch.testing.assert_close(pair.student, student / 2)
    torch.testing.assert_close(pair.teacher, teacher / 2)
    assert pair.weight.item() == 4.0
    assert pair.student_base is student


def test_normalized_is_tau_times_the_unbiased_deviation() -> None:
    student, teacher = _logits()
    pair = NormalizedTemperature(2.0)(student, teacher)
    torch.testing.assert_close(pair.student.std(1), torch.full((6,), 0.5, dtype=torch.float64))
    torch.testing.assert_close(pair.teacher.std(1), torch.full((6,), 0.5, dtype=torch.float64))
    torch.testing.assert_close(pair.weight, (2 * teacher.std(1)).square())


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3])
def test_normalized_gives_a_constant_teacher_row_no_weight(value: float) -> None:
    student, teacher = _logits()
    teacher[2] = value  # 0.1 is not constant to the last bit once its mean is subtracted
    student.requires_grad_()
    pair = NormalizedTemperature(2.0)(student, teacher)
    assert pair.weight[2] == 0
    assert (pair.weight[:2] > 0).all()
    assert pair.teacher.isfinite().all()


def test_normalized_takes_tau_for_a_constant_student_row() -> None:
    student, teacher = _logits()
    student[1] = 0.3
    student.requires_grad_()
    pair = NormalizedTemperature(2.0)(student, teacher)
    torch.testing.assert_close(pair.student[1], student[1] / 2)
    pair.student.sum().backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_one_class_has_no_deviation() -> None:
    student, teacher = _logits(4, 1)
    assert (NormalizedTemperature()(student, teacher).weight == 0).all()
    assert (StandardizedLogits()(student, teacher).student == 0).all()


def test_dynamic_splits_in_proportion_to_the_largest_logits() -> None:
    student, teacher = torch.tensor([[2.0, -9.0], [-1.0, -2.0]]), torch.tensor([[6.0, 1.0], [-3.0, -4.0]])
    student_tau, teacher_tau = DynamicTemperature(4.0).temperatures(student, teacher)
    torch.testing.assert_close(student_tau.squeeze(1), torch.tensor([2.0, 2.0]))  # two negative maxima: as released
    torch.testing.assert_close(teacher_tau.squeeze(1), torch.tensor([6.0, 6.0]))


@pytest.mark.parametrize(
    ("student_top", "teacher_top"), [(1.0, -1.0), (-2.0, 5.0), (0.0, 3.0), (3.0, 0.0), (0.0, 0.0), (1e-30, 9.0)]
)
def test_dynamic_falls_back_to_the_reference_where_it_would_break(student_top: float, teacher_top: float) -> None:
    student = torch.tensor([[student_top, student_top - 1]]).requires_grad_()
    pair = DynamicTemperature(4.0)(student, torch.tensor([[teacher_top, teacher_top - 1]]))
    torch.testing.assert_close(pair.student, student / 4)
    assert pair.weight.item() == pytest.approx(16)
    (pair.student.sum() + pair.weight.sum()).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_standardizing_adds_the_epsilon_to_the_deviation() -> None:
    row = torch.tensor([[0.0, 2e-8, 4e-8]], dtype=torch.float64)  # deviation 2e-8, well below the epsilon, no rounding
    torch.testing.assert_close(standardize_logits(row), (row - 2e-8) / (1e-7 + 2e-8))
    torch.testing.assert_close(standardize_logits(row, eps=1e-3), (row - 2e-8) / (1e-3 + 2e-8))


def test_standardizing_a_constant_row_gives_zeros_and_a_tame_gradient() -> None:
    rows = torch.full((2, 5), 0.1, requires_grad=True)
    out = standardize_logits(rows)
    torch.testing.assert_close(out, torch.zeros(2, 5))
    (out * torch.arange(5.0)).sum().backward()
    assert rows.grad is not None
    assert rows.grad.abs().max() < 10


def test_annealing_counts_up_and_then_drops_the_teacher() -> None:
    soften = AnnealedLogits(tau_max=4, epochs=8)
    student, teacher = _logits()
    seen = []
    for epoch in range(10):
        soften.set_progress(epoch)
        seen.append((soften.phi, soften.active))
    assert seen[:8] == [(f, True) for f in (0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1.0, 1.0)]
    assert [active for _, active in seen[8:]] == [False, False]
    soften.set_progress(2)
    pair = soften(student, teacher)
    torch.testing.assert_close(pair.teacher, teacher / 2)
    torch.testing.assert_close(pair.student, student)


def test_annealing_stops_at_the_full_teacher_where_the_epochs_do_not_divide() -> None:
    assert annealing_factor(24, tau_max=10, epochs=25) == 1.0  # the released program reaches 1.3


def test_learned_temperature_climbs_what_the_student_descends() -> None:
    student, teacher = _logits()
    grads = {}
    for epoch in (0, 4, 9, 30):
        soften = LearnedTemperature(init=-1.0).double()
        soften.set_progress(epoch)
        soften(student, teacher).weight.sum().backward()
        assert soften.raw_tau.grad is not None
        grads[epoch] = soften.raw_tau.grad.item()
    plain = LearnedTemperature(init=-1.0).double()
    plain.temperature.square().backward()
    assert plain.raw_tau.grad is not None
    for epoch, grad in grads.items():
        assert grad == pytest.approx(reversal_strength(epoch + 1) * plain.raw_tau.grad.item())
    assert 0 > grads[0] > grads[4] > grads[9] == grads[30]


def test_learned_temperature_starts_between_its_ends() -> None:
    assert LearnedTemperature().temperature.item() == pytest.approx(1 + 20 / (1 + math.exp(-1)))
    assert list(LearnedTemperature().state_dict()) == ["raw_tau"]


def test_reversal_is_a_half_cosine() -> None:
    assert [reversal_strength(e, 10) for e in (-1, 0, 10, 11)] == [0, 0, -1, -1]
    assert reversal_strength(5, 10) == pytest.approx(-0.5)


@pytest.mark.parametrize("word", sorted(SOFTENINGS))
def test_shift_invariance_of_the_distributions(word: str) -> None:
    student, teacher = _logits()
    soften = build_softening(word).double()
    pair, shifted = soften(student, teacher), soften(student + 5, teacher + 5)
    same = torch.allclose(pair.student.softmax(1), shifted.student.softmax(1))
    assert same == (word != "dynamic")  # its temperatures read the raw maximum


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("normalised", "softening type must be one of .* did you mean 'normalized'"),
        ({"type": "fixed", "tua": 2.0}, "takes tau, got 'tua'; did you mean 'tau'"),
        ({"tau": 2.0}, "must be a name, a dict with a 'type' or a Softening"),
        ({"type": "fixed", "tau": 0.0}, "tau must be above 0"),
        ({"type": "normalized", "tau": -1.0}, "tau must be above 0"),
        ({"type": "dynamic", "tau": -1.0}, "tau must be above 0"),
        ({"type": "standardized", "eps": 0.0}, "eps must be above 0"),
        ({"type": "annealed", "tau_max": 0}, "tau_max must be at least 1"),
        ({"type": "annealed", "tau_max": 10, "epochs": 5}, "epochs must be at least tau_max = 10"),
        ({"type": "learned", "tau_start": 0.0}, "tau_start must be above 0"),
        ({"type": "learned", "epochs": 0}, "epochs must be at least 1"),
    ],
)
def test_errors_name_the_argument(spec: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_softening(spec)


def test_an_instance_passes() -> None:
    soften = FixedTemperature(3.0)
    assert build_softening(soften) is soften
