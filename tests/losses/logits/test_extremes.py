"""Inputs that break the released programs, for every combination of the grid: finite value and gradient."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch
from torch import Tensor

from freqkd.losses.logits.divergence import DIVERGENCES, build_divergence
from freqkd.losses.logits.loss import LogitLoss, check_grid
from freqkd.losses.logits.softening import SOFTENINGS, build_softening

torch.set_num_threads(1)


def _makes_sense(softening: str, divergence: str, activation: str) -> bool:
    try:
        check_grid(build_softening(softening), build_divergence(divergence), activation)
    except ValueError:
        return False
    return True


GRID = [g for g in itertools.product(SOFTENINGS, DIVERGENCES, ("softmax", "sigmoid")) if _makes_sense(*g)]


def _extremes(kind: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 2, 5, 8, 8, generator=generator).to(dtype)
    target = torch.randint(5, (2, 8, 8), generator=generator)
    target[:, ::3] = 255
    if kind == "constant rows":
        student[:, :, :4], teacher[:, :, 2:6] = 0.1, -0.3
    elif kind == "zeros":
        student, teacher = torch.zeros_like(student), torch.zeros_like(teacher)
    elif kind == "one class":
        student, teacher, target = student[:, :1], teacher[:, :1], target.clamp(max=0)
    elif kind == "all ignored":
        target = torch.full_like(target, 255)
        student[:] = float("nan")
    elif kind == "opposite maxima":
        student, teacher = -student.abs() - 0.1, teacher.abs() + 0.1
    elif kind == "opposite sums":
        student, teacher = -teacher - 2 * teacher.amax(1, keepdim=True), teacher
    elif kind == "huge gaps":
        student, teacher = student.sign() * 1e4, teacher.sign() * -1e4
    return student, teacher, target


KINDS = ["constant rows", "zeros", "one class", "all ignored", "opposite maxima", "opposite sums", "huge gaps"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("softening", "divergence", "activation"), GRID)
def test_finite_where_the_released_programs_are_not(
    kind: str, softening: str, divergence: str, activation: str
) -> None:
    dtypes = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    for regions, dtype in itertools.product((None, {"scales": (1, 2, 4)}), dtypes):
        student, teacher, target = _extremes(kind, dtype)
        student.requires_grad_()
        loss = LogitLoss(softening, divergence, regions, activation, ignore_index=255)
        if kind == "one class" and activation == "softmax" and divergence != "mse":
            with pytest.raises(ValueError, match="at least two classes for activation='softmax'"):
                loss(student, teacher, target)
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            value = loss(student, teacher, target)
            value.backward()
        assert value.isfinite(), regions
        if softening == "normalized" and kind == "huge gaps" and dtype == torch.float16:
            continue  # the weight, the teacher's variance, is 1e8 here: no half precision number
        assert student.grad is not None
        assert student.grad.isfinite().all(), regions
        if kind == "all ignored":
            assert value == 0
            assert (student.grad == 0).all()
            assert all(p.grad is not None and p.grad == 0 for p in loss.parameters())
