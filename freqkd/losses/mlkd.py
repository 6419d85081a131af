"""MLKD: multi-level logit distillation, several temperatures and correlations of classes and samples, on two views."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from freqkd.losses.logits.loss import SAME_HEADS
from freqkd.losses.logits.methods import kd_loss
from freqkd.losses.logits.softening import standardize_logits
from freqkd.utils.checks import check_at_least, check_flag, check_positive, check_same_shape, upcast

__all__ = ["MLKDLoss", "mlkd_terms"]


def _at_most_median(values: Tensor) -> Tensor:
    """Return the share of values that are not above their median (of an even number: the mean of the middle two)."""
    ordered = values.sort().values
    middle = (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) / 2
    return (values <= middle).to(values.dtype).mean()


def mlkd_terms(
    student_weak: Tensor,
    student_strong: Tensor,
    teacher_weak: Tensor,
    teacher_strong: Tensor,
    *,
    tau: float = 4.0,
    taus: Sequence[float] = (3.0, 5.0),
    weak_taus: Sequence[float] = (2.0, 6.0),
    standardize: bool = False,
) -> dict[str, Tensor]:
    """Return MLKD's three terms, as the released program computes them.

    With S = {tau, *taus, *weak_taus}, m the share of samples whose teacher confidence (weak view) is at most the median
    and m_c that of classes by their summed probability:

    * loss_kd: `m sum_S KD(weak) + sum_{tau, taus} KD(strong) + sum_{weak_taus} KD(weak)`;
    * loss_cc: `m_c sum_S |P_t^T P_t - P_s^T P_s|^2 / C`, the correlation of classes (weak view);
    * loss_bc: `m sum_S |P_t P_t^T - P_s P_s^T|^2 / N`, the correlation of samples (weak view).

    Args:
        student_weak: logits (N, C) of the weak view; likewise the other three.
        student_strong: student, strong view.
        teacher_weak: teacher, weak view; no gradient.
        teacher_strong: teacher, strong view; no gradient.
        tau: the method's own temperature.
        taus: further temperatures of both views.
        weak_taus: temperatures whose "strong" term the released program computes on the weak view.
        standardize: standardise the logits of loss_kd first (arXiv 2403.01427); the correlations keep the raw ones.

    Returns:
        `dict(loss_kd=..., loss_cc=..., loss_bc=...)`, scalars.

    Raises:
        ValueError: for logits that are not (N, C): the correlation of samples compares every pair, too many on a map.

    References:
        Jin et al., CVPR 2023, "Multi-level logit distillation". Differs from the paper, as the program does: no single
        sample is selected by its confidence (m is a factor), two strong terms use the weak view, the strong view has no
        correlations.

    >>> _ = torch.manual_seed(0)
    >>> views = [torch.randn(4, 3) for _ in range(4)]
    >>> print({name: round(value.item(), 4) for name, value in mlkd_terms(*views).items()})
    {'loss_kd': 4.2115, 'loss_cc': 0.0873, 'loss_bc': 0.009}
    """
    if student_weak.dim() != 2 or len(student_weak) < 1:
        raise ValueError(f"student_weak must have the shape (N, C) with N at least 1, got {tuple(student_weak.shape)}")
    for tensor in (student_strong, teacher_weak, teacher_strong):
        check_same_shape(student_weak, tensor, "views' logits", SAME_HEADS)
    student_weak, student_strong = upcast(student_weak), upcast(student_strong)
    teacher_weak, teacher_strong = upcast(teacher_weak).detach(), upcast(teacher_strong).detach()
    probabilities = teacher_weak.softmax(1)
    share, class_share = _at_most_median(probabilities.amax(1)), _at_most_median(probabilities.sum(0))
    weak, strong = (student_weak, teacher_weak), (student_strong, teacher_strong)
    if standardize:
        weak, strong = [(standardize_logits(s), standardize_logits(t)) for s, t in (weak, strong)]
    every = (tau, *taus, *weak_taus)
    weak_kd = {t: kd_loss(*weak, tau=t) for t in every}
    kd = share * sum(weak_kd[t] for t in every) + sum(weak_kd[t] for t in weak_taus)
    kd = kd + sum(kd_loss(*strong, tau=t) for t in (tau, *taus))
    cc, bc = torch.zeros_like(share), torch.zeros_like(share)
    with torch.autocast(
        student_weak.device.type, enabled=False
    ):  # products of probabilities underflow in half precision
        for t in every:
            student, teacher = (student_weak / t).softmax(1), (teacher_weak / t).softmax(1)
            cc = cc + (teacher.t() @ teacher - student.t() @ student).square().sum() / student.shape[1]
            bc = bc + (teacher @ teacher.t() - student @ student.t()).square().sum() / student.shape[0]
    return {"loss_kd": kd, "loss_cc": class_share * cc, "loss_bc": share * bc}


class MLKDLoss(nn.Module):
    """Sum MLKD's three terms; see `mlkd_terms`. Standardised (arXiv 2403.01427): tau 2, weight 9.

    It compares two views of every image, which no term of the distiller has: for training loops of your own. Registered as
    `dict(type='freqkd.MLKDLoss', tau=4.0, loss_weight=0.9)`.

    >>> _ = torch.manual_seed(0)
    >>> view = torch.randn(4, 3)
    >>> MLKDLoss()(view, view, view, view).item()
    0.0
    """

    def __init__(self, tau: float = 4.0, standardize: bool = False, loss_weight: float = 1.0) -> None:
        super().__init__()
        check_positive("tau", tau)
        check_flag("standardize", standardize)
        check_at_least("loss_weight", loss_weight, 0)
        self.tau, self.standardize, self.loss_weight = tau, standardize, loss_weight

    def forward(
        self, student_weak: Tensor, student_strong: Tensor, teacher_weak: Tensor, teacher_strong: Tensor
    ) -> Tensor:
        terms = mlkd_terms(
            student_weak, student_strong, teacher_weak, teacher_strong, tau=self.tau, standardize=self.standardize
        )
        return self.loss_weight * torch.stack(list(terms.values())).sum()
