"""Observe what modules are called with, where the answer is no module's output: sampled proposals, assigned labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import nn

from freqkd.taps import find_module


class InputTap:
    """Record the positional arguments of modules' calls while the `with` block lasts.

    `tap[path]` is a list with the tuple of arguments of each call; a module that did not run gives an empty list.

    Args:
        model: the network to observe.
        paths: dotted module paths, see `find_module`.

    Raises:
        ValueError: a path does not exist (nearest names listed); on construction.

    >>> model = nn.Sequential(nn.ReLU(), nn.Sigmoid())
    >>> with InputTap(model, ["1"]) as tap:
    ...     _ = model(torch.tensor([-1.0, 2.0]))
    >>> tap["1"]
    [(tensor([0., 2.]),)]
    """

    def __init__(self, model: nn.Module, paths: Sequence[str]) -> None:
        self._modules = {path: find_module(model, path) for path in paths}
        self._records: dict[str, list[tuple[Any, ...]]] = {path: [] for path in paths}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> InputTap:
        for path, module in self._modules.items():
            self._records[path] = []
            self._handles.append(module.register_forward_pre_hook(self._recorder(self._records[path])))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @staticmethod
    def _recorder(records: list[tuple[Any, ...]]) -> Callable[[nn.Module, Any], None]:
        def record(module: nn.Module, arguments: Any) -> None:
            records.append(tuple(arguments))

        return record

    def __getitem__(self, path: str) -> list[tuple[Any, ...]]:
        return self._records[path]
