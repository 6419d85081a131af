"""Divergences against plain formulas, and where the plain formulas break."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from freqkd.losses.logits.divergence import DIVERGENCES, Correlation, QualityFocal, build_divergence
from freqkd.losses.logits.softening import SoftenedPair

torch.set_num_threads(1)


def _pair(student: Tensor, teacher: Tensor, weight: float = 1.0, activation: str = "softmax") -> SoftenedPair:
    return SoftenedPair(student, teacher, student.new_tensor(weight), student, teacher, activation)


def _logits(n: int = 6, c: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(n, c, generator=generator, dtype=torch.float64) for _ in range(2))
    return student, 2 * teacher, torch.randint(c, (n,), generator=generator)


def test_kl() -> None:
    student, teacher, _ = _logits()
    p, q = teacher.softmax(1), student.softmax(1)
    torch.testing.assert_close(build_divergence("kl")(_pair(student, teacher, 3.0)), 3 * (p * (p / q).log()).sum(1))


def test_dkd_by_hand() -> None:
    student, teacher, target = _logits()
    p, q = teacher.softmax(1), student.softmax(1)
    expected = []
    for n, y in enumerate(target.tolist()):
        rest = [c for c in range(5) if c != y]
        both = [torch.stack([x[n, y], x[n, rest].sum()]) for x in (p, q)]
        others = [x[n, rest] / x[n, rest].sum() for x in (p, q)]
        tckd, nckd = ((a * (a / b).log()).sum() for a, b in (both, others))
        expected.append(2 * tckd + 3 * nckd)
    dkd = build_divergence({"type": "dkd", "alpha": 2.0, "beta": 3.0})
    torch.testing.assert_close(dkd(_pair(student, teacher), target), torch.stack(expected))


def test_nkd_by_hand() -> None:
    student, teacher, target = _logits()
    pair = SoftenedPair(student / 2, teacher / 2, torch.tensor(4.0), student, teacher)
    expected = []
    for n, y in enumerate(target.tolist()):
        rest = [c for c in range(5) if c != y]
        first = -teacher.softmax(1)[n, y] * student.log_softmax(1)[n, y]
        second = -((teacher[n, rest] / 2).softmax(0) * (student[n, rest] / 2).log_softmax(0)).sum()
        expected.append(first + 1.5 * 4 * second)
    torch.testing.assert_close(build_divergence("nkd")(pair, target), torch.stack(expected))


def test_dist_is_pearson() -> None:
    student, teacher, _ = _logits(20)
    p, q = teacher.softmax(1).numpy(), student.softmax(1).numpy()
    rows = np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(p, q)])
    columns = np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(p.T, q.T)])
    expected = torch.from_numpy(1 - rows + 2 * (1 - columns).mean())
    torch.testing.assert_close(Correlation(gamma=2.0)(_pair(student, teacher)), expected, rtol=1e-6, atol=1e-7)


def test_dist_of_sigmoid_heads_correlates_their_probabilities() -> None:
    student, teacher, _ = _logits(20)
    found = Correlation(gamma=0.0)(_pair(student, teacher, activation="sigmoid"))
    row = np.corrcoef(student[3].sigmoid().numpy(), teacher[3].sigmoid().numpy())[0, 1]
    assert found[3].item() == pytest.approx(1 - row, rel=1e-5)


def test_dist_weights_count_samples_as_copies_would() -> None:
    student, teacher, _ = _logits(8)
    weight = torch.tensor([2.0, 1.0, 1.0, 1.0, 3.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    copies = torch.repeat_interleave(torch.arange(8), weight.long())
    weighted = Correlation()(_pair(student, teacher), weight=weight)
    copied = Correlation()(_pair(student[copies], teacher[copies]))
    torch.testing.assert_close((weight * weighted).sum() / weight.sum(), copied.mean(), rtol=1e-6, atol=1e-7)


def test_dist_of_one_sample_or_a_constant_row_has_no_gradient() -> None:
    student, teacher, _ = _logits(1)
    student = torch.zeros_like(student).requires_grad_()
    loss = Correlation()(_pair(student, teacher)).mean()
    assert loss.item() == pytest.approx(2.0)
    loss.backward()
    torch.testing.assert_close(student.grad, torch.zeros_like(student))


def test_mse_is_the_mean_over_the_classes() -> None:
    student, teacher, _ = _logits()
    torch.testing.assert_close(build_divergence("mse")(_pair(student, teacher)).mean(), F.mse_loss(student, teacher))


def test_binary_kl() -> None:
    student, teacher, _ = _logits()
    p, q = teacher.sigmoid(), student.sigmoid()
    expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum(1)
    torch.testing.assert_close(build_divergence("binary_kl")(_pair(student, teacher)), expected)


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0])
def test_quality_focal(beta: float) -> None:
    student, teacher, _ = _logits()
    p, q = teacher.sigmoid(), student.sigmoid()
    bce = F.binary_cross_entropy_with_logits(student, p, reduction="none")
    expected = (bce * (p - q).abs() ** beta).sum(1)
    torch.testing.assert_close(QualityFocal(beta)(_pair(student, teacher)), expected)


@pytest.mark.parametrize("word", sorted(set(DIVERGENCES) - {"nkd"}))
def test_zero_iff_equal(word: str) -> None:
    student, teacher, target = _logits(12)
    divergence = build_divergence(word)
    torch.testing.assert_close(
        divergence(_pair(student, student), target), torch.zeros(12, dtype=torch.float64), rtol=0, atol=1e-6
    )
    assert (divergence(_pair(student, teacher), target) > 1e-4).all()


def test_nkd_is_least_at_the_teacher_among_the_others() -> None:
    """It is a cross entropy: not zero at equality, but without gradient along the other classes."""
    _, teacher, target = _logits()
    student = teacher.clone().requires_grad_()
    build_divergence({"type": "nkd", "gamma": 1.0})(_pair(student, teacher), target).sum().backward()
    assert student.grad is not None
    others = ~F.one_hot(target, 5).bool()
    p = teacher.softmax(1)
    pull = (p * p.gather(1, target[:, None]))[others]  # what the first part alone pushes down
    torch.testing.assert_close(student.grad[others], pull)


@pytest.mark.parametrize("word", sorted(DIVERGENCES))
@pytest.mark.parametrize("classes", [1, 2, 7])
@pytest.mark.parametrize("gap", [1.0, 100.0, 1e4])
@pytest.mark.parametrize("rows", [0, 1, 4])
def test_finite_value_and_gradient(word: str, classes: int, gap: float, rows: int) -> None:
    student, teacher, target = (x.float() if x.is_floating_point() else x for x in _logits(rows, classes))
    student = (gap * student).requires_grad_()
    loss = build_divergence(word)(_pair(student, -gap * teacher), target)
    assert loss.shape == (rows,)
    assert loss.isfinite().all()
    loss.sum().backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("word", ["dkd", "nkd"])
def test_one_class_is_zero_and_two_classes_have_no_others(word: str) -> None:
    student, teacher, target = _logits(4, 1)
    assert (build_divergence(word)(_pair(student, teacher), target) == 0).all()
    student, teacher, target = _logits(4, 2)
    part = {"dkd": {"alpha": 0.0}, "nkd": {}}[word]
    loss = build_divergence({"type": word, **part})(_pair(student, teacher), target)
    if word == "nkd":
        loss = loss - build_divergence({"type": word, "gamma": 0.0})(_pair(student, teacher), target)
    torch.testing.assert_close(loss, torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("word", sorted(DIVERGENCES))
def test_gradients_of_both_sides(word: str) -> None:
    """The teacher's side too: a learned or dynamic temperature reaches it (the released DKD gives nan there)."""
    student, teacher, target = _logits(4, 4)
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def loss(s: Tensor, a: Tensor) -> Tensor:
        return build_divergence(word)(_pair(s * a, teacher * a), target)

    assert torch.autograd.gradcheck(loss, (student.requires_grad_(), scale))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("kld", "divergence type must be one of 'kl', .*did you mean 'kl'"),
        ({"type": "dkd", "betta": 1.0}, "takes alpha, beta, got 'betta'; did you mean 'beta'"),
        ({"type": "dkd", "alpha": -1.0}, "alpha must be at least 0"),
        ({"type": "nkd", "gamma": -1.0}, "gamma must be at least 0"),
        ({"type": "dist", "gamma": -1.0}, "gamma must be at least 0"),
        ({"type": "quality_focal", "beta": 0.5}, "beta must be 0 or at least 1, got 0.5"),
    ],
)
def test_errors_name_the_argument(spec: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_divergence(spec)


def test_labels_are_needed() -> None:
    student, teacher, _ = _logits()
    with pytest.raises(ValueError, match="target must be given"):
        build_divergence("dkd")(_pair(student, teacher))
