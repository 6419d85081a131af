"""Fixtures shared by the tests: numbers made by the authors' own programs (vectors/README.md)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

torch.set_num_threads(1)  # maps are tiny: threads would only wait for one another
VECTORS = Path(__file__).parent / "vectors"


@lru_cache
def _archive(name: str) -> dict[str, np.ndarray[Any, Any]]:
    with np.load(VECTORS / f"{name}.npz") as archive:
        assert json.loads(str(archive["meta"]))["commit"]
        return {key: archive[key] for key in archive.files if key != "meta"}


@dataclass(frozen=True)
class FeatureCase:
    """One seed of a file of feature vectors, whose keys are `s<seed>.<name>` and `s<seed>.l<level>.<name>`."""

    name: str
    seed: int

    def number(self, key: str) -> float:
        return float(_archive(self.name)[f"s{self.seed}.{key}"])

    def array(self, key: str, level: int) -> torch.Tensor:
        return torch.from_numpy(_archive(self.name)[f"s{self.seed}.l{level}.{key}"]).double()

    def levels(self) -> range:
        return range(int(self.number("n_levels")))

    def pyramids(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The student's maps, which require a gradient, and the teacher's."""
        students = [self.array("y_s", level).requires_grad_() for level in self.levels()]
        return students, [self.array("y_t", level) for level in self.levels()]


@pytest.fixture(scope="session")
def feature_case() -> Callable[[str, int], FeatureCase]:
    """Return `feature_case(file, seed)`."""
    return FeatureCase


@pytest.fixture(scope="session")
def saved_sizes() -> Callable[[Callable[[], object]], list[int]]:
    """Return `saved_sizes(call)`: the number of elements of every tensor that `call()` keeps for its backward."""

    def measure(call: Callable[[], object]) -> list[int]:
        sizes: list[int] = []

        def note(x: torch.Tensor) -> torch.Tensor:
            sizes.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            call()
        return sizes

    return measure
