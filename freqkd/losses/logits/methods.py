"""Published methods of logit distillation as pure functions, each a choice of softening, divergence and regions.

All take logits (N, C) or (N, C, *S), or lists of these (one for each level); labels `target` (N,) or (N, *S), whether
or not they read them; and `ignore_index`, the label of positions that do not count. What holds for all (ignored
positions, levels, half precision, errors) is said at `LogitLoss`, the module that stands for each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from freqkd.losses.logits.loss import LogitLoss, Logits
from freqkd.losses.logits.softening import AnnealedLogits
from freqkd.utils.checks import check_whole

__all__ = [
    "annealing_kd_loss",
    "dist_loss",
    "dkd_loss",
    "dtkd_loss",
    "kd_loss",
    "nkd_loss",
    "normkd_loss",
    "sdd_loss",
    "standardized_kd_loss",
]


def _distil(
    student: Logits,
    teacher: Logits,
    target: Logits | None,
    ignore_index: int | None,
    softening: Any,
    divergence: Any,
    regions: Any = None,
) -> Tensor:
    result: Tensor = LogitLoss(softening, divergence, regions, ignore_index=ignore_index)(student, teacher, target)
    return result


def kd_loss(
    student: Logits,
    teacher: Logits,
    target: Logits | None = None,
    *,
    tau: float = 4.0,
    ignore_index: int | None = None,
) -> Tensor:
    """Distil by temperature: `tau^2 * mean_n KL(softmax(t / tau) || softmax(s / tau))`. Grid: fixed x kl.

    Shape: (N, C) or (N, C, *S) -> scalar.
    Raises: ValueError where `tau` is not above 0 (the released programs then reverse the order of the classes).
    References: Hinton et al., arXiv 1503.02531. Differs from 'batchmean' on maps in dividing by positions, not by
        images.

    Config::

        loss=dict(type='freqkd.LogitLoss', softening=dict(type='fixed', tau=4.0), divergence='kl')

    >>> import torch; _ = torch.manual_seed(0)
    >>> print(f"{kd_loss(torch.randn(2, 5), torch.randn(2, 5), tau=4.0).item():.4f}")
    0.5584
    """
    return _distil(student, teacher, target, ignore_index, {"type": "fixed", "tau": tau}, "kl")


def dkd_loss(
    student: Logits,
    teacher: Logits,
    target: Logits,
    *,
    tau: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
    ignore_index: int | None = None,
) -> Tensor:
    """Distil the labelled class and the others apart: `tau^2 * mean_n(alpha TCKD_n + beta NCKD_n)`. Grid: fixed x dkd.

    The warm-up of the released program, `min(epoch / warmup, 1)`, belongs to the term's schedule.

    Shape: (N, C) or (N, C, *S), labels (N,) or (N, *S) -> scalar.
    Raises: ValueError for labels outside 0..C-1 that are not `ignore_index`.
    References: Zhao et al., arXiv 2203.08679, equation 7. Differs from the released program in staying finite: see
        `DecoupledKL`.

    Config::

        loss=dict(type='freqkd.LogitLoss', softening=dict(type='fixed', tau=4.0),
                  divergence=dict(type='dkd', alpha=1.0, beta=8.0), ignore_index=255)

    >>> import torch; _ = torch.manual_seed(0)
    >>> print(f"{dkd_loss(torch.randn(2, 5), torch.randn(2, 5), torch.tensor([0, 4])).item():.4f}")
    2.3980
    """
    divergence = {"type": "dkd", "alpha": alpha, "beta": beta}
    return _distil(student, teacher, target, ignore_index, {"type": "fixed", "tau": tau}, divergence)


def nkd_loss(
    student: Logits,
    teacher: Logits,
    target: Logits,
    *,
    tau: float = 1.0,
    gamma: float = 1.5,
    ignore_index: int | None = None,
) -> Tensor:
    """Distil by cross entropies: the labelled class at temperature 1, the others at `tau`. Grid: fixed x nkd.

    `mean_n(-p_1(t)_y log p_1(s)_y - gamma tau^2 sum_{c != y} q_tau(t)_c log q_tau(s)_c)`, q the softmax over c != y.

    Shape: (N, C) or (N, C, *S), labels (N,) or (N, *S) -> scalar.
    Raises: ValueError for labels outside 0..C-1 that are not `ignore_index`.
    References: Yang et al., arXiv 2303.13005. Differs from the program before its fix of October 2023, which left y in
        q.

    Config::

        loss=dict(type='freqkd.LogitLoss', softening=dict(type='fixed', tau=1.0), divergence=dict(type='nkd',
        gamma=1.5))

    >>> import torch; _ = torch.manual_seed(0)
    >>> print(f"{nkd_loss(torch.randn(2, 5), torch.randn(2, 5), torch.tensor([0, 4])).item():.4f}")
    2.1157
    """
    divergence = {"type": "nkd", "gamma": gamma}
    return _distil(student, teacher, target, ignore_index, {"type": "fixed", "tau": tau}, divergence)


def dist_loss(
    student: Logits,
    teacher: Logits,
    target: Logits | None = None,
    *,
    tau: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
    ignore_index: int | None = None,
) -> Tensor:
    """Distil relations: one minus the correlations within samples and classes, times `tau^2`. Grid: fixed x dist.

    Shape: (N, C) or (N, C, *S), all positions of all images one set -> scalar.
    References: Huang et al., arXiv 2205.10536; `tau` is OpenMMLab's. See `Correlation` for constant rows.

    Config::

        loss=dict(type='freqkd.LogitLoss', softening=dict(type='fixed', tau=1.0), divergence='dist', ignore_index=255)

    >>> import torch; _ = torch.manual_seed(0)
    >>> print(f"{dist_loss(torch.randn(8, 5), torch.randn(8, 5)).item():.4f}")
    1.4057
    """
    divergence = {"type": "dist", "beta": beta, "gamma": gamma}
    return _distil(student, teacher, target, ignore_index, {"type": "fixed", "tau": tau}, divergence)


def normkd_loss(
    student: Logits,
    teacher: Logits,
    target: Logits | None = None,
    *,
    tau: float = 2.0,
    divergence: Any = "kl",
    ignore_index: int | None = None,
) -> Tensor:
    """Distil with the temperature `tau * std` of each sample's own logits. Grid: normalized x kl, or x `divergence`.

    `mean_n T_t^2 KL(softmax(t / T_t) || softmax(s / T_s))` with T = tau times the unbiased deviation over the classes.

    Shape: (N, C) or (N, C, *S) -> scalar.
    References: Chi et al., arXiv 2308.00520. Differs from the released program at constant rows: see
        `NormalizedTemperature`.

    Config::

        loss=dict(type='freqkd.LogitLoss', softening=dict(type='normalized', tau=2.0), divergence='kl')

    >>> import torch; _ = torch.manual_seed(0)
    >>> print(f"{normkd_loss(torch.randn(2, 5), torch.randn(2, 5)).item():.4f}")
    0.3555
    """
    return _distil(student, teacher, target, ignore_index, {"type": "normalized", "tau": tau}, divergence)


def dtkd_loss(
    student: Logits,
    teacher: Logits,
    target: Logits | None = None,
    *,
    tau: float = 4.0,
    divergence: Any = "kl",
    ignore_index: int | None = None,
) -> Tensor:
    """Distil with `2 tau` split in proportion to the largest logits of both. Grid: dynamic x kl, or x `divergence`.

    The dynamic term alone: the published objective adds `beta * kd_loss(tau)` and the cross entropy.

    Shape: (N, C) or (N, C, *S) -> scalar.
    References: Wei and Bai, arXiv 2404.12711 (released rule). Differs from the released program where the maxima have
        opposite signs or one is zero: see `DynamicTemperature`. With dkd it is an addition of this package.

    Config::

        loss=dict(type='freqkd.LogitLoss', softening=dict(type='dynamic', tau=4.0), divergence='kl'), weight=3.0

    >>> import torch; _ = torch.manual_seed(0)
    >>> print(f"{dtkd_loss(torch.randn(2, 5), torch.randn(2, 5)).item():.4f}")
    0.5595
    """
    return _distil(student, teacher, target, ignore_index, {"type": "dynamic", "tau": tau}, divergence)


def standardized_kd_loss(
    student: Logits,
    teacher: Logits,
    target: Logits | None = None,
    *,
    tau: float = 2.0,
    divergence: Any = "kl",
    ignore_index: int | None = None,
) -> Tensor:
    """Distil logits shifted to mean 0 and scaled to deviation 1, at `tau`. Grid: standardized x kl, or x `divergence`.

    Shape: (N, C) or (N, C, *S) -> scalar.
    References: Sun et al., arXiv 2403.01427, algorithm 1. Differs from the paper in the unbiased deviation plus 1e-7,
        as the program. The authors weigh the term by 9.

    Config::

        loss=dict(type='freqkd.LogitLoss', softening=dict(type='standardized', tau=2.0), divergence='kl'), weight=9.0

    >>> import torch; _ = torch.manual_seed(0)
    >>> print(f"{standardized_kd_loss(torch.randn(2, 5), torch.randn(2, 5)).item():.4f}")
    0.5258
    """
    return _distil(student, teacher, target, ignore_index, {"type": "standardized", "tau": tau}, divergence)


def annealing_kd_loss(
    student: Logits,
    teacher: Logits,
    target: Logits | None = None,
    *,
    tau: int = 1,
    tau_max: int = 10,
    ignore_index: int | None = None,
) -> Tensor:
    """Match the student's logits with the teacher's times `Phi = 1 - (tau - 1) / tau_max`. Grid: annealed x mse.

    `mean_n mean_c (s - Phi t)^2`. The paper's T runs from `tau_max` down to 1; `LogitLoss` with the softening
    "annealed" does that by `set_progress(epoch)`, and drops the teacher afterwards (phase 2, the labels alone).

    Shape: (N, C) or (N, C, *S) -> scalar.
    Raises: ValueError for `tau` outside 1..tau_max.
    References: Jafari et al., arXiv 2104.07163. Differs from the paper in the mean over the classes where it has a sum,
        as the program; from the program where the epochs are not a multiple of tau_max: see `annealing_factor`.

    Config::

        loss=dict(type='freqkd.LogitLoss', softening=dict(type='annealed', tau_max=10, epochs=200), divergence='mse')

    >>> import torch; _ = torch.manual_seed(0)
    >>> print(f"{annealing_kd_loss(torch.randn(2, 5), torch.randn(2, 5), tau=10).item():.4f}")
    1.1510
    """
    softening = AnnealedLogits(tau_max=tau_max, epochs=tau_max)
    check_whole("tau", tau, 1, most=tau_max)
    softening.set_progress(tau_max - tau)
    return _distil(student, teacher, target, ignore_index, softening, "mse")


def sdd_loss(
    student: Logits,
    teacher: Logits,
    target: Logits | None = None,
    *,
    tau: float = 4.0,
    scales: Sequence[int] = (1, 2, 4),
    complementary: float = 2.0,
    divergence: Any = "kl",
    ignore_index: int | None = None,
) -> Tensor:
    """Distil the mean logits of regions at several scales. Grid: fixed x kl (or x `divergence`) x regions.

    Sum over images and regions of `w * tau^2 KL`, divided by their number; w = `complementary` where the teacher is
    right on the region and wrong on the whole or the other way round, else 1.

    Shape: maps (N, C, H, W), labels (N,) or (N, H, W) (a region's is its majority valid label) -> scalar.
    Raises: ValueError for logits that are not a map, or without `target`.
    References: Luo, arXiv 2403.13512. Differs from the paper as `ScaleRegions` says; its NKD form had the uncorrected
        mask.

    Config::

        loss=dict(type='freqkd.LogitLoss', softening=dict(type='fixed', tau=4.0), divergence='kl',
                  regions=dict(scales=(1, 2, 4)), ignore_index=255)

    >>> import torch; _ = torch.manual_seed(0)
    >>> print(f"{sdd_loss(torch.randn(2, 5, 8, 8), torch.randn(2, 5, 8, 8), torch.tensor([0, 4])).item():.4f}")
    0.2551
    """
    regions = {"scales": scales, "complementary": complementary}
    return _distil(student, teacher, target, ignore_index, {"type": "fixed", "tau": tau}, divergence, regions)
