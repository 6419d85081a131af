"""Softenings: temperatures and normalisations of the logits of student and teacher, before a divergence.

A softening maps rows of logits (M, C), one row per sample, to a `SoftenedPair`. To add one, write one class here, with
a `forward(student, teacher)` and, if it changes over the epochs, `follows_progress = True`, and name it in `SOFTENINGS`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from freqkd.utils.checks import check_at_least, check_flag, check_positive, check_whole, resolve_choice

__all__ = ["build_softening"]

NO_SIGMOID = "it removes the mean over the classes, which tells a sigmoid head whether there is an object; use fixed"


@dataclass
class SoftenedPair:
    """Rows of logits (M, C) after a softening, ready for the `activation`, and before the temperature (`_base`).

    `weight`, (M,) or a scalar, is the product of both temperatures: it keeps the gradient's size when they change.
    """

    student: Tensor
    teacher: Tensor
    weight: Tensor
    student_base: Tensor
    teacher_base: Tensor
    activation: str = "softmax"


class Softening(nn.Module):
    """Base: the `activations` it suits (`reason` says why not the other), `learnable` where it is trained.

    `follows_progress` where it reads `epoch`.
    """

    activations: tuple[str, ...] = ("softmax", "sigmoid")
    reason = ""
    learnable = False
    follows_progress = False
    epoch = 0.0

    @property
    def active(self) -> bool:
        """Whether the term still works; a term that is done weighs nothing."""
        return True

    def set_progress(self, epoch: float) -> None:
        """Tell the number of finished epochs, 0 in the first one (or of iterations, where the options count these)."""
        self.epoch = float(epoch)

    def forward(self, student: Tensor, teacher: Tensor) -> SoftenedPair:
        raise NotImplementedError


def _deviation(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the unbiased deviation over the classes, (M, 1), and where a row is constant up to rounding."""
    if rows.shape[1] < 2 or not len(rows):  # one class has no deviation, and torch would warn
        return torch.zeros_like(rows[:, :1]), torch.ones_like(rows[:, :1], dtype=torch.bool)
    std = rows.std(1, keepdim=True)
    return std, std <= 4 * torch.finfo(rows.dtype).eps * rows.detach().abs().amax(1, keepdim=True)


def standardize_logits(logits: Tensor, eps: float = 1e-7) -> Tensor:
    """Shift each row to mean 0 and scale it to unbiased deviation 1: `(z - mean) / (eps + std)`.

    `eps` is added to the deviation, as in the released program. Only a row that is constant up to rounding is not
    divided: it gives zeros as there, but no gradient times 1 / eps, which half precision could not hold.

    >>> standardize_logits(torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([[-1.0000,  0.0000,  1.0000]])
    """
    std, flat = _deviation(logits)
    return (logits - logits.mean(1, keepdim=True)) / torch.where(flat, 1.0, eps + std)


def _at(tau: float, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return student / tau, teacher / tau, student.new_tensor(tau**2)


class FixedTemperature(Softening):
    """One temperature for both: `z / tau`, weight `tau^2` (arXiv 1503.02531); a `tau` not above 0 is a ValueError.

    >>> FixedTemperature(2.0)(torch.tensor([[2.0, 0.0]]), torch.tensor([[4.0, 0.0]])).teacher
    tensor([[2., 0.]])
    """

    def __init__(self, tau: float = 4.0) -> None:
        super().__init__()
        check_positive("tau", tau)
        self.tau = tau

    def forward(self, student: Tensor, teacher: Tensor) -> SoftenedPair:
        return SoftenedPair(*_at(self.tau, student, teacher), student, teacher)


def annealing_factor(epoch: float, tau_max: int, epochs: int) -> float:
    """Return Phi of Annealing KD, the factor on the teacher's logits.

    `(1 + floor(epoch / (epochs // tau_max))) / tau_max`: in `tau_max` steps up to 1, equal to
    `1 - (T - 1) / tau_max` for T from tau_max down to 1.
    Differs from the released program where `epochs` is not a multiple of `tau_max`: there it grows past 1.

    >>> [annealing_factor(epoch, tau_max=2, epochs=5) for epoch in range(5)]
    [0.5, 0.5, 1.0, 1.0, 1.0]
    """
    return min(1.0, (1 + math.floor(max(0.0, epoch) / (epochs // tau_max))) / tau_max)


class AnnealedLogits(Softening):
    """Annealing KD: the teacher's logits times Phi, which grows to 1 in `tau_max` steps; then no teacher at all.

    Phase 1 lasts `epochs` epochs, phase 2 the rest of the training, where the term is zero and the student learns from
    the labels alone. `set_progress(epoch)` moves it. Less than an epoch for each step is a ValueError.
    The student has no temperature. Reference: Jafari et al., arXiv 2104.07163.

    >>> soften = AnnealedLogits(tau_max=10, epochs=20)
    >>> soften.set_progress(7)
    >>> soften.phi, soften.active
    (0.4, True)
    """

    follows_progress = True

    def __init__(self, tau_max: int = 10, epochs: int = 200) -> None:
        super().__init__()
        check_whole("tau_max", tau_max, 1)
        check_whole("epochs", epochs, 1)
        if epochs < tau_max:
            raise ValueError(f"epochs must be at least tau_max = {tau_max}, one for each step, got {epochs}")
        self.tau_max, self.epochs = tau_max, epochs

    @property
    def phi(self) -> float:
        return annealing_factor(self.epoch, self.tau_max, self.epochs)

    @property
    def active(self) -> bool:
        return self.epoch < self.epochs

    def forward(self, student: Tensor, teacher: Tensor) -> SoftenedPair:
        teacher = teacher * self.phi
        return SoftenedPair(student, teacher, student.new_tensor(1.0), student, teacher)


class NormalizedTemperature(Softening):
    """NormKD: a sample's temperature is `tau` times the unbiased deviation of its logits; weight: T_t^2.

    A constant row (to rounding; also every row of a one-class head) has no deviation. The teacher's carries weight 0,
    which is the limit; the student's takes `tau` itself. The released program gives nan for the whole batch.
    Reference: Chi et al., arXiv 2308.00520; the paper leaves the deviation open, the program's is unbiased.

    >>> NormalizedTemperature(2.0)(torch.zeros(1, 3), torch.tensor([[1.0, 2.0, 3.0]])).weight
    tensor([4.])
    """

    def __init__(self, tau: float = 2.0) -> None:
        super().__init__()
        check_positive("tau", tau)
        self.tau = tau

    def forward(self, student: Tensor, teacher: Tensor) -> SoftenedPair:
        student_std, student_flat = _deviation(student)
        teacher_std, teacher_flat = _deviation(teacher)
        weight = torch.where(teacher_flat, 0.0, teacher_std * self.tau).square().squeeze(1)
        student_tau = torch.where(student_flat, 1.0, student_std) * self.tau
        teacher_tau = torch.where(teacher_flat, 1.0, teacher_std) * self.tau
        return SoftenedPair(student / student_tau, teacher / teacher_tau, weight, student, teacher)


class DynamicTemperature(Softening):
    """DTKD: `2 tau` is split between teacher and student in proportion to their largest logits x and v.

    `T_teacher = 2 x tau / (x + v)`, `T_student = 2 v tau / (x + v)`, weight their product; the gradient reaches v in
    all of them. Where x and v differ in sign or one is zero (or vanishes beside the other), a temperature would be
    negative, zero or undefined: there, and only there, both are `tau`. Two negative maxima keep the released values.
    Not invariant to a shift.

    References:
        Wei and Bai, arXiv 2404.12711, the released rule: the authors' README calls equations 4 and 5 wrong.

    >>> DynamicTemperature(4.0)(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 0.0]])).weight  # 2 * 6
    tensor([12.])
    """

    def __init__(self, tau: float = 4.0) -> None:
        super().__init__()
        check_positive("tau", tau)
        self.tau = tau

    def temperatures(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Return the temperatures of student and teacher, each (M, 1); their sum is 2 tau."""
        student_top, teacher_top = student.amax(1, keepdim=True), teacher.amax(1, keepdim=True)
        same_sign = ((student_top > 0) & (teacher_top > 0)) | ((student_top < 0) & (teacher_top < 0))
        # torch.where alone would pass on the nan gradient of the branch not taken
        share = student_top / torch.where(same_sign, student_top + teacher_top, 1.0)
        eps = torch.finfo(share.dtype).eps
        share = torch.where(same_sign & (share > eps) & (share < 1 - eps), share, 0.5)
        return 2 * self.tau * share, 2 * self.tau * (1 - share)

    def forward(self, student: Tensor, teacher: Tensor) -> SoftenedPair:
        student_tau, teacher_tau = self.temperatures(student, teacher)
        weight = (student_tau * teacher_tau).squeeze(1)
        return SoftenedPair(student / student_tau, teacher / teacher_tau, weight, student, teacher)


class StandardizedLogits(Softening):
    """Logit standardisation: `standardize_logits(z) / tau`, weight `tau^2`.

    A constant row gives the uniform distribution; see `standardize_logits` for its gradient.

    References:
        Sun et al., arXiv 2403.01427, algorithm 1. Differs in the deviation (unbiased, plus eps), as the program.

    >>> StandardizedLogits(2.0)(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[2.0, 4.0, 6.0]])).teacher
    tensor([[-0.5000,  0.0000,  0.5000]])
    """

    activations = ("softmax",)
    reason = NO_SIGMOID

    def __init__(self, tau: float = 2.0, eps: float = 1e-7) -> None:
        super().__init__()
        check_positive("tau", tau)
        check_at_least("eps", eps, 0, exclusive=True, most=1)
        self.tau, self.eps = tau, eps

    def forward(self, student: Tensor, teacher: Tensor) -> SoftenedPair:
        student, teacher = standardize_logits(student, self.eps), standardize_logits(teacher, self.eps)
        return SoftenedPair(*_at(self.tau, student, teacher), student, teacher)


def reversal_strength(epoch: float, epochs: int = 10) -> float:
    """Return CTKD's factor on the temperature's gradient: `(cos(pi e / E) - 1) / 2`, from 0 down to -1.

    Negative: the temperature climbs the loss that the student descends. The authors count epochs from 1.

    >>> [round(reversal_strength(epoch), 3) for epoch in (0, 5, 10, 20)]
    [0.0, -0.5, -1.0, -1.0]
    """
    return 0.5 * (math.cos(math.pi * min(max(epoch, 0.0), epochs) / epochs) - 1.0)


class LearnedTemperature(Softening):
    """CTKD: one temperature `tau_start + tau_range * sigmoid(g)`, trained against the student by gradient reversal.

    The gradient reaches g through both distributions and through the weight `T^2`, times `reversal_strength(epoch + 1)`
    (the authors' first epoch is 1). The optimizer must see this module's parameter.
    `standardize=True` standardises both networks' logits first.
    Reference: Li et al., arXiv 2211.16231, the global temperature (the one for each sample was never released).

    >>> soften = LearnedTemperature()
    >>> round(soften.temperature.item(), 2)
    15.62
    """

    learnable = True
    follows_progress = True
    reason = NO_SIGMOID

    def __init__(
        self,
        tau_start: float = 1.0,
        tau_range: float = 20.0,
        init: float = 1.0,
        epochs: int = 10,
        standardize: bool = False,
    ) -> None:
        super().__init__()
        check_positive("tau_start", tau_start)
        check_at_least("tau_range", tau_range, 0)
        check_at_least("init", init, -100, most=100)  # a sigmoid is flat long before
        check_whole("epochs", epochs, 1)
        check_flag("standardize", standardize)
        self.tau_start, self.tau_range, self.epochs, self.standardize = tau_start, tau_range, epochs, standardize
        self.raw_tau = nn.Parameter(torch.tensor(float(init)))
        self.activations = ("softmax",) if standardize else ("softmax", "sigmoid")

    @property
    def temperature(self) -> Tensor:
        return self.tau_start + self.tau_range * self.raw_tau.sigmoid()

    def forward(self, student: Tensor, teacher: Tensor) -> SoftenedPair:
        if self.standardize:
            student, teacher = standardize_logits(student), standardize_logits(teacher)
        fixed, strength = self.raw_tau.detach(), reversal_strength(self.epoch + 1, self.epochs)
        raw = fixed + strength * (self.raw_tau - fixed)  # the value of g, its gradient times strength
        tau = (self.tau_start + self.tau_range * raw.sigmoid()).to(student.dtype)
        return SoftenedPair(student / tau, teacher / tau, tau.square(), student, teacher)


SOFTENINGS: dict[str, type[Softening]] = {
    "fixed": FixedTemperature,
    "annealed": AnnealedLogits,
    "normalized": NormalizedTemperature,
    "dynamic": DynamicTemperature,
    "standardized": StandardizedLogits,
    "learned": LearnedTemperature,
}


def build_softening(spec: Any) -> Softening:
    """Build a softening from its name, `dict(type=name, **options)` or an instance.

    >>> build_softening(dict(type="normalized", tau=1.5)).tau
    1.5
    """
    return resolve_choice("softening", spec, SOFTENINGS, Softening)
