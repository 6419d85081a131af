"""Fixtures: one seed for every test, and the logit vectors (../vectors/README.md)."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

Case = tuple[dict[str, Tensor], dict[str, Any]]
VECTORS = Path(__file__).parents[1] / "vectors"


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@lru_cache
def _load(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    with np.load(VECTORS / f"{name}.npz") as archive:
        return {key: archive[key] for key in archive.files}, json.loads(str(archive["meta"]))


@pytest.fixture(scope="session")
def logit_case() -> Callable[[str, str], Case]:
    """Return `logit_case(file, case)`: its arrays, in float64, and its settings."""

    def read(name: str, case: str) -> Case:
        arrays, meta = _load(name)
        found = {
            k.split(".", 1)[1]: torch.from_numpy(np.asarray(v)) for k, v in arrays.items() if k.startswith(case + ".")
        }
        tensors = {key: value.double() if value.is_floating_point() else value for key, value in found.items()}
        return tensors, meta.get("cases", {}).get(case, {}).get("hyper", {})

    return read


@pytest.fixture(scope="session")
def same() -> Callable[[Tensor | float, Tensor], None]:
    """Return the comparison of the vectors: rtol 1e-6, in float64."""

    def compare(actual: Tensor | float, expected: Tensor) -> None:
        torch.testing.assert_close(torch.as_tensor(actual, dtype=expected.dtype), expected, rtol=1e-6, atol=1e-9)

    return compare


@pytest.fixture(scope="session")
def compare(same: Callable[[Tensor | float, Tensor], None]) -> Callable[..., None]:
    """Return `compare(arrays, loss, suffix)`: the value and the student's gradient are the case's, the teacher has none."""

    def run(arrays: dict[str, Tensor], loss: Callable[..., Tensor], suffix: str = "") -> None:
        student = arrays["student" + suffix].clone().requires_grad_()
        teacher = arrays["teacher" + suffix].clone().requires_grad_()
        value = loss(student, teacher, arrays.get("target"))
        value.backward()
        same(value.detach(), arrays["loss"])
        assert student.grad is not None
        assert teacher.grad is None
        same(student.grad, arrays["grad_student" + suffix])

    return run
