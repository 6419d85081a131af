"""Coarse guards: FreeKD costs about what MSE does, in time and in memory. Real measurements are `make bench`."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch

from freqkd.losses import FreeKDLoss, mse_loss


def test_freekd_stays_near_the_price_of_mse() -> None:
    torch.manual_seed(0)
    student, teacher = (
        torch.randn(1, 256, 100, 168).contiguous(memory_format=torch.channels_last) for _ in range(2)
    )  # P3 of an 800x1344 image
    student.requires_grad_()
    freekd = FreeKDLoss(256, 1, num_prompts=6, relation="none")
    calls: dict[str, Callable[[], torch.Tensor]] = {
        "freekd": lambda: freekd(student, teacher),
        "mse": lambda: mse_loss(student, teacher),
    }
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(9):
        for name, call in calls.items():
            student.grad = None
            start = time.perf_counter()
            call().backward()
            best[name] = min(best[name], time.perf_counter() - start)
    assert best["freekd"] < 6 * best["mse"], best


@pytest.mark.parametrize("preset", ["paper", "official"])
def test_memory_does_not_grow_with_prompts(saved_sizes, preset: str) -> None:
    student, teacher = torch.randn(1, 8, 32, 32, requires_grad=True), torch.randn(1, 8, 32, 32)
    kept = []
    for num_prompts in (2, 6):
        loss = FreeKDLoss(8, 1, num_prompts, preset=preset)
        kept.append(sum(saved_sizes(lambda: loss(student, teacher))))  # noqa: B023 (called at once)
    assert kept[0] == kept[1]
    assert kept[0] < 3 * student.numel()
