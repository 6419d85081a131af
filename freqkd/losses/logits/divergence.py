"""Divergences between the softened logits of student and teacher, one number per sample.

A divergence maps a `SoftenedPair` of rows to (M,) numbers; the caller weighs and averages them. To add one, write one
class here and name it in `DIVERGENCES`. Classes that read the label set `needs_target`; labels arrive checked, in
0..C-1.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqkd.losses.logits.softening import SoftenedPair
from freqkd.utils.checks import check_at_least, resolve_choice

__all__ = ["build_divergence"]

NO_SOFTMAX = "it reads each logit as a yes or no of its own, and a softmax head's logits are not; use kl"


class Divergence(nn.Module):
    """Base of all divergences.

    Attributes:
        activations: the heads it suits; `reason` says why not the others.
        needs_target: whether it reads the label of each sample.
        cancels_temperature: whether a temperature drops out of it, so that none can be learned.
        relational: whether it compares samples with each other, so that a sum over samples has no meaning by itself.
    """

    activations: tuple[str, ...] = ("softmax",)
    reason = "it compares distributions over the classes, a sigmoid head has none; use binary_kl or quality_focal"
    needs_target = False
    cancels_temperature = False
    relational = False

    def forward(self, pair: SoftenedPair, target: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
        """Return one number for each sample, (M,), times `pair.weight`.

        `weight` (M,) says how much each sample will count; the caller multiplies by it, only relations need to know it.
        """
        raise NotImplementedError


def _kl(teacher_log: Tensor, student_log: Tensor) -> Tensor:
    """Return KL(teacher || student) over the last axis, from log probabilities, also where a probability is 0."""
    return F.kl_div(student_log, teacher_log, reduction="none", log_target=True).sum(-1)


def _label_of(logits: Tensor, target: Tensor | None) -> Tensor:
    if target is None:
        raise ValueError("target must be given: this divergence treats the labelled class apart")
    return F.one_hot(target, logits.shape[1]).bool()


def _others(logits: Tensor, label: Tensor) -> Tensor:
    """Return the logits (M, C - 1) without the labelled class: removed, not masked, so that nothing is 0 * inf."""
    return logits[~label].view(len(logits), max(logits.shape[1] - 1, 0))


class KLDivergence(Divergence):
    """Kullback-Leibler: `sum_c p_t (log p_t - log p_s)`, computed from log probabilities, finite for any gap of logits.

    >>> KLDivergence()(SoftenedPair(z := torch.zeros(1, 2), z + 1, torch.tensor(1.0), z, z))
    tensor([0.])
    """

    def forward(self, pair: SoftenedPair, target: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
        return pair.weight * _kl(pair.teacher.log_softmax(1), pair.student.log_softmax(1))


class DecoupledKL(Divergence):
    """DKD: `alpha * TCKD + beta * NCKD`.

    TCKD compares the labelled class with the rest of the classes together; NCKD compares the other classes among
    themselves. The labelled class is removed rather than masked by -1000 and logarithms are taken before exponentials,
    so saturated students stay finite; equal to the released program elsewhere. Two classes: NCKD is 0. One class: 0.

    References:
        Zhao et al., arXiv 2203.08679, equation 7.

    >>> z = torch.tensor([[2.0, 1.0, 0.0]])
    >>> DecoupledKL(beta=0.0)(SoftenedPair(z, z.flip(1), z.new_tensor(1.0), z, z), torch.tensor([1]))  # same share
    tensor([0.])
    """

    needs_target = True

    def __init__(self, alpha: float = 1.0, beta: float = 8.0) -> None:
        super().__init__()
        check_at_least("alpha", alpha, 0)
        check_at_least("beta", beta, 0)
        self.alpha, self.beta = alpha, beta

    def forward(self, pair: SoftenedPair, target: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
        label = _label_of(pair.student, target)
        if pair.student.shape[1] < 2:
            return 0 * pair.weight * pair.student.sum(1)
        others = [_others(logits, label) for logits in (pair.teacher, pair.student)]
        both = []
        for logits, rest in zip((pair.teacher, pair.student), others):
            total = logits.logsumexp(1)
            both.append(torch.stack([logits[label] - total, rest.logsumexp(1) - total], 1))
        tckd = _kl(both[0], both[1])
        nckd = _kl(others[0].log_softmax(1), others[1].log_softmax(1))
        return pair.weight * (self.alpha * tckd + self.beta * nckd)


class NormalizedKD(Divergence):
    """NKD: `-p_t(y) log p_s(y)` at temperature 1, plus `gamma` times the others' renormalised cross entropy.

    Only the second part takes the softening's temperature and weight. The mask is the corrected one (the labelled class
    is out of the second softmax); the program before its fix, and SDD's copy of it, kept it in. It is a cross entropy:
    its minimum over the student is the teacher's entropy, not 0. Two classes: the second part is 0. One class: 0.

    References:
        Yang et al., arXiv 2303.13005.

    >>> z = torch.zeros(1, 3)
    >>> print(round(NormalizedKD()(SoftenedPair(z, z, z.new_tensor(1.0), z, z), torch.tensor([1])).item(), 4))
    1.4059
    """

    needs_target = True

    def __init__(self, gamma: float = 1.5) -> None:
        super().__init__()
        check_at_least("gamma", gamma, 0)
        self.gamma = gamma

    def forward(self, pair: SoftenedPair, target: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
        label = _label_of(pair.student, target)
        if pair.student.shape[1] < 2:
            return 0 * pair.weight * pair.student.sum(1)
        teacher_label = pair.teacher_base.softmax(1)[label]
        first = -teacher_label * pair.student_base.log_softmax(1)[label]
        teacher_rest, student_rest = _others(pair.teacher, label), _others(pair.student, label)
        second = -(teacher_rest.softmax(1) * student_rest.log_softmax(1)).sum(1)
        return first + self.gamma * pair.weight * second


class Correlation(Divergence):
    """DIST: one minus Pearson's correlation of the probabilities, within each sample and within each class.

    `beta * (1 - mean_n r(p_s[n], p_t[n])) + gamma * (1 - mean_c r(p_s[:, c], p_t[:, c]))`, r with `eps` = 1e-8 added to
    the product of the norms, as released. All samples form one set; where samples have different weights (a
    softening's, a region's, a class's) both means and the second correlation are weighted by them. A constant row or
    column, and a single sample, has correlation 0: the term is 1 there, without gradient (the released program has one
    of about 1 / eps at a constant row). Sigmoid heads: the correlations are those of sigmoid probabilities.

    References:
        Huang et al., arXiv 2205.10536; the temperature and its square are OpenMMLab's, the paper has temperature 1.

    >>> z = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    >>> Correlation()(SoftenedPair(z, z, z.new_tensor(1.0), z, z)).round(decimals=3).abs()
    tensor([0.3330, 0.3330])
    """

    activations = ("softmax", "sigmoid")
    relational = True

    def __init__(self, beta: float = 1.0, gamma: float = 1.0, eps: float = 1e-8) -> None:
        super().__init__()
        check_at_least("beta", beta, 0)
        check_at_least("gamma", gamma, 0)
        check_at_least("eps", eps, 0, most=1)
        self.beta, self.gamma, self.eps = beta, gamma, eps

    def forward(self, pair: SoftenedPair, target: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
        sigmoid = pair.activation == "sigmoid"
        student, teacher = (z.sigmoid() if sigmoid else z.softmax(1) for z in (pair.student, pair.teacher))
        count = student.new_ones(len(student)) if weight is None else weight.to(student.dtype)
        scale = pair.weight.expand(len(student))
        inter = 1 - self._pearson(student, teacher, torch.ones_like(student[:1]))
        total = (count * scale).sum()
        # weights of mean 1, constants: how much a sample counts among the others is nothing to learn
        mean = (total / max(len(student), 1)).detach()
        relative = (count * scale).detach() / torch.where(mean > 0, mean, 1.0)
        intra = 1 - self._pearson(student.t(), teacher.t(), relative[None]).mean()
        known = count.sum()
        spread = total / torch.where(known > 0, known, 1.0)  # what the caller's weighted mean must give back
        return self.beta * scale * inter + self.gamma * spread * intra * torch.ones_like(count)

    def _pearson(self, a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
        """Correlate each row of `a` with the row of `b`, columns weighted by `weight` (1, L) of mean 1."""
        share = weight / max(a.shape[1], 1)
        rounding = 4 * torch.finfo(a.dtype).eps
        least = [rounding * torch.linalg.vector_norm(x.detach(), dim=1) for x in (a, b)]
        a, b = a - (share * a).sum(1, keepdim=True), b - (share * b).sum(1, keepdim=True)
        norms = [torch.linalg.vector_norm(weight.sqrt() * x, dim=1) for x in (a, b)]
        correlation: Tensor = (weight * a * b).sum(1) / (norms[0] * norms[1] + self.eps)
        # a row that is constant up to rounding has correlation 0 anyhow, but a gradient of 1 / eps
        return torch.where((norms[0] > least[0]) & (norms[1] > least[1]), correlation, 0.0)


class SquaredError(Divergence):
    """Mean over the classes of `(z_s - z_t)^2` of the softened logits, times the weight: the term of Annealing KD.

    A fixed temperature drops out of it (`tau^2 (s / tau - t / tau)^2`), and so would a learned one. Not invariant to a
    shift.
    """

    activations = ("softmax", "sigmoid")
    cancels_temperature = True

    def forward(self, pair: SoftenedPair, target: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
        return pair.weight * (pair.student - pair.teacher).square().mean(1)


class BinaryKL(Divergence):
    """Sum over the classes of the binary KL between sigmoid probabilities, finite for any gap of logits."""

    activations = ("sigmoid",)
    reason = NO_SOFTMAX

    def forward(self, pair: SoftenedPair, target: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
        student = torch.stack([F.logsigmoid(pair.student), F.logsigmoid(-pair.student)], -1)
        teacher = torch.stack([F.logsigmoid(pair.teacher), F.logsigmoid(-pair.teacher)], -1)
        return pair.weight * _kl(teacher, student).sum(1)


def check_focal_exponent(name: str, value: float) -> None:
    """Raise ValueError unless `value` can be the exponent of a modulating factor: 0, or from 1 to 100.

    >>> check_focal_exponent("beta", 0.5)
    Traceback (most recent call last):
    ...
    ValueError: beta must be 0 or at least 1, got 0.5
    """
    check_at_least(name, value, 0, most=100)
    if 0 < value < 1:
        raise ValueError(f"{name} must be 0 or at least 1, got {value!r}")


class QualityFocal(Divergence):
    """Sum over the classes of `BCE(s, sigma(t)) * |sigma(t) - sigma(s)|^beta`: the class term of BCKD and of CrossKD.

    The gradient runs through the modulating factor too. BCKD divides the sum over all positions by the number of
    positives: `avg_factor`.

    Raises:
        ValueError: where `0 < beta < 1`: the gradient would be infinite at equal probabilities.

    References:
        Yang et al. (BCKD), arXiv 2308.14286; Wang et al. (CrossKD), arXiv 2306.11369.
    """

    activations = ("sigmoid",)
    reason = NO_SOFTMAX

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        check_focal_exponent("beta", beta)
        self.beta = beta

    def forward(self, pair: SoftenedPair, target: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
        student, teacher = pair.student.sigmoid(), pair.teacher.sigmoid()
        entropy = -(teacher * F.logsigmoid(pair.student) + (1 - teacher) * F.logsigmoid(-pair.student))
        return pair.weight * (entropy * (teacher - student).abs().pow(self.beta)).sum(1)


DIVERGENCES: dict[str, type[Divergence]] = {
    "kl": KLDivergence,
    "dkd": DecoupledKL,
    "nkd": NormalizedKD,
    "dist": Correlation,
    "mse": SquaredError,
    "binary_kl": BinaryKL,
    "quality_focal": QualityFocal,
}


def build_divergence(spec: Any) -> Divergence:
    """Build a divergence from its name, `dict(type=name, **options)` or an instance.

    >>> build_divergence(dict(type="dkd", beta=2.0)).beta
    2.0
    """
    return resolve_choice("divergence", spec, DIVERGENCES, Divergence)
