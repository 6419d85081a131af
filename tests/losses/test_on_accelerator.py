"""Every loss on an accelerator against the CPU: the same value and gradients, in full and in half precision."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from reliability.test_half_precision import KINDS, arguments_of, rows
from torch import Tensor, nn

HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
RANDOM = ("MGDLoss", "FourierKDLoss")  # draw numbers, others on either device
if not torch.cuda.is_available():
    pytest.skip("needs an accelerator, and torch finds none", allow_module_level=True)


def moved(value: Any, device: str) -> Any:
    if isinstance(value, Tensor):
        # Standard normal maps: `arguments_of` draws them 1e4 times as large.
        scale = 1e-4 if value.is_floating_point() and value.abs().max() > 100 else 1.0
        return (value * scale if scale != 1 else value).to(device, copy=True)
    return [moved(item, device) for item in value] if isinstance(value, list) else value


def run(
    loss: nn.Module, given: dict[str, Any], device: str, half: torch.dtype | None = None
) -> tuple[float, dict[str, Tensor]]:
    loss = copy.deepcopy(loss).to(device)
    given = {key: moved(value, device) for key, value in given.items()}
    maps = {key: value for key, value in given.items() if isinstance(value, Tensor) and value.is_floating_point()}
    for value in maps.values():
        value.requires_grad_()
    with torch.autocast(device, dtype=half, enabled=half is not None):
        value = loss(**given)
    value.backward()
    gradients = {key: x.grad.float().cpu() for key, x in maps.items() if x.grad is not None}
    gradients.update({name: one.grad.float().cpu() for name, one in loss.named_parameters() if one.grad is not None})
    return float(value), gradients


@pytest.mark.parametrize(("name", "options"), [row for row in rows() if row.values[0] not in RANDOM])
def test_the_value_and_gradients_are_those_of_the_cpu(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loss, given = KINDS[name](**options), arguments_of(name)
        expected, wanted = run(loss, given, "cpu")
        value, gradients = run(loss, given, "cuda")
    assert value == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert list(gradients) == list(wanted)
    for key, one in gradients.items():
        torch.testing.assert_close(one, wanted[key], rtol=1e-3, atol=1e-4 * float(wanted[key].abs().max()) + 1e-7)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize(("name", "options"), rows())
def test_autocast_gives_about_the_value_of_full_precision(name: str, options: dict[str, Any], half: str) -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loss, given = KINDS[name](**options), arguments_of(name)
        torch.manual_seed(1)
        expected, _ = run(loss, given, "cuda")
        torch.manual_seed(1)
        value, gradients = run(loss, given, "cuda", HALVES[half])
    assert value == pytest.approx(expected, rel=0.02, abs=1e-4)
    assert all(bool(torch.isfinite(one).all()) for one in gradients.values())
