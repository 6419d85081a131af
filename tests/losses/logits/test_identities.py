"""Identities between the methods, for any logits."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from freqkd.losses.logits.loss import LogitLoss
from freqkd.losses.logits.methods import (
    dist_loss,
    dkd_loss,
    dtkd_loss,
    kd_loss,
    nkd_loss,
    normkd_loss,
    sdd_loss,
    standardized_kd_loss,
)
from freqkd.losses.logits.softening import DynamicTemperature

torch.set_num_threads(1)
quick = settings(max_examples=30, deadline=None)
seeds = st.integers(0, 2**31)
taus = st.floats(0.5, 10.0)
scales = st.floats(0.2, 5.0)
shifts = st.floats(-20.0, 20.0)


def _draw(seed: int, classes: int = 7, n: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    spread = 0.3 + 4 * torch.rand(2, n, 1, generator=generator, dtype=torch.float64)
    student, teacher = spread * torch.randn(2, n, classes, generator=generator, dtype=torch.float64)
    return student, teacher, torch.randint(classes, (n,), generator=generator)


def _close(a: Tensor, b: Tensor, rtol: float = 1e-9) -> None:
    torch.testing.assert_close(a, b, rtol=rtol, atol=1e-11)


@quick
@given(seeds, taus, st.integers(2, 12))
def test_kd_is_tckd_plus_weighted_nckd(seed: int, tau: float, classes: int) -> None:
    student, teacher, target = _draw(seed, classes)
    rest = 1 - (teacher / tau).softmax(1).gather(1, target[:, None]).squeeze(1)
    tckd = dkd_loss(student, teacher, target, tau=tau, alpha=1.0, beta=0.0)
    nckd = LogitLoss({"type": "fixed", "tau": tau}, {"type": "dkd", "alpha": 0.0, "beta": 1.0})
    each = nckd(student, teacher, target, weight=rest) * rest.sum() / len(rest)
    _close(kd_loss(student, teacher, tau=tau), tckd + each)


@quick
@given(seeds, taus)
def test_normkd_is_standardized_kd_weighted_by_the_teachers_variance(seed: int, tau: float) -> None:
    student, teacher, _ = _draw(seed)
    variance = teacher.var(1)
    standardized = LogitLoss({"type": "standardized", "tau": tau, "eps": 1e-15}, "kl")
    _close(
        normkd_loss(student, teacher, tau=tau),
        standardized(student, teacher, weight=variance) * variance.sum() / len(variance),
    )


@quick
@given(seeds, taus, scales, shifts)
def test_standardized_is_invariant_to_scale_and_shift_of_both(seed: int, tau: float, a: float, b: float) -> None:
    student, teacher, target = _draw(seed)
    for divergence in ("kl", "dkd", "nkd", "dist", "mse"):
        loss = LogitLoss({"type": "standardized", "tau": tau, "eps": 1e-15}, divergence)
        expected = loss(student, teacher, target)
        _close(loss(a * student + b, teacher, target), expected, 1e-7)
        _close(loss(student, a * teacher + b, target), expected, 1e-7)


@quick
@given(seeds, taus, scales, shifts)
def test_normkd_under_scale_and_shift(seed: int, tau: float, a: float, b: float) -> None:
    student, teacher, _ = _draw(seed)
    expected = normkd_loss(student, teacher, tau=tau)
    _close(normkd_loss(a * student + b, teacher, tau=tau), expected)
    _close(normkd_loss(student, a * teacher + b, tau=tau), a * a * expected)


@quick
@given(seeds, taus, shifts)
def test_shift_invariance(seed: int, tau: float, b: float) -> None:
    student, teacher, target = _draw(seed)
    shift = b * torch.randn(6, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for loss in (kd_loss, dkd_loss, nkd_loss, dist_loss, normkd_loss, standardized_kd_loss):
        expected = loss(student, teacher, target, tau=tau)
        _close(loss(student + shift, teacher, target, tau=tau), expected, 1e-7)
        _close(loss(student, teacher + shift, target, tau=tau), expected, 1e-7)


@quick
@given(seeds, taus, shifts)
def test_dynamic_temperatures_sum_to_twice_the_reference(seed: int, tau: float, b: float) -> None:
    student, teacher, _ = _draw(seed)
    student_tau, teacher_tau = DynamicTemperature(tau).temperatures(student + b, teacher - b)
    _close(student_tau + teacher_tau, torch.full_like(student_tau, 2 * tau))
    assert (student_tau > 0).all()
    assert (teacher_tau > 0).all()


@quick
@given(seeds, taus)
def test_dynamic_of_equal_maxima_is_kd(seed: int, tau: float) -> None:
    student, teacher, _ = _draw(seed)
    student = student - student.amax(1, keepdim=True) + 3
    teacher = teacher - teacher.amax(1, keepdim=True) + 3
    _close(dtkd_loss(student, teacher, tau=tau), kd_loss(student, teacher, tau=tau))


@quick
@given(seeds)
def test_two_classes(seed: int) -> None:
    student, teacher, target = _draw(seed, classes=2)
    assert dkd_loss(student, teacher, target, alpha=0.0).abs() < 1e-12
    standardized = LogitLoss({"type": "standardized", "tau": 1.0, "eps": 1e-15})
    _close(standardized(3 * student, teacher * 0.1), standardized(student, teacher), 1e-6)  # only the order is left


@quick
@example(585, 8.0, "dist")
@given(seeds, taus, st.sampled_from(["kl", "dkd", "nkd", "dist", "mse"]))
def test_equal_regions_that_agree_are_the_base_loss(seed: int, tau: float, divergence: Any) -> None:
    student, teacher, _ = _draw(seed)
    target = teacher.argmax(1)
    maps = [x[:, :, None, None].expand(6, 7, 8, 8) for x in (student, teacher)]
    # DIST's eps stands beside norms that a region's positions change, so the identity is exact without it.
    spec = {"type": "dist", "eps": 1e-15} if divergence == "dist" else divergence
    base = LogitLoss({"type": "fixed", "tau": tau}, spec)(student, teacher, target)
    _close(sdd_loss(*maps, target, tau=tau, divergence=spec), base)
    # complementary regions cannot exist: the whole and its parts are the same
    _close(
        sdd_loss(*maps, (target + 1) % 7, tau=tau, divergence="kl", complementary=9.0),
        kd_loss(student, teacher, tau=tau),
    )


@quick
@given(seeds, taus)
def test_dense_labels_that_agree_equal_the_images_label(seed: int, tau: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, 3, 5, 8, 8, generator=generator, dtype=torch.float64)
    target = torch.randint(5, (3,), generator=generator)
    dense = target[:, None, None].expand(3, 8, 8)
    _close(sdd_loss(student, teacher, dense, tau=tau), sdd_loss(student, teacher, target, tau=tau))


@quick
@given(seeds, taus)
def test_losses_are_not_negative_and_vanish_at_the_teacher(seed: int, tau: float) -> None:
    student, teacher, target = _draw(seed)
    for loss in (kd_loss, dkd_loss, normkd_loss, dtkd_loss, standardized_kd_loss):
        assert loss(student, teacher, target, tau=tau) >= 0
        assert loss(teacher, teacher, target, tau=tau).abs() < 1e-9


@quick
@given(seeds, taus)
def test_the_order_of_the_samples_does_not_matter(seed: int, tau: float) -> None:
    student, teacher, target = _draw(seed)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    for loss in (kd_loss, dkd_loss, nkd_loss, dist_loss, dtkd_loss):
        _close(loss(student[order], teacher[order], target[order], tau=tau), loss(student, teacher, target, tau=tau))
