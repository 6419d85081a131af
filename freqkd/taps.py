"""Taps: recording what modules return (`FeatureTap`) or take (`InputTap`), and replacing what they return (`FeatureEdit`).

Each lasts as long as a `with` block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from freqkd.utils.checks import nearest


def find_module(model: nn.Module, path: str) -> nn.Module:
    """Return the module at a dotted path.

    Args:
        model: the network.
        path: as in `named_modules`, e.g. `"neck"`, `"bbox_head.retina_cls"`, `"backbone.layer4.1"`.

    Raises:
        ValueError: no module has this path; the message lists the nearest names.

    >>> find_module(nn.Sequential(nn.ReLU()), "0")
    ReLU()
    >>> find_module(nn.ModuleDict({"neck": nn.ReLU()}), "nekc")
    Traceback (most recent call last):
    ...
    ValueError: no module 'nekc' in ModuleDict; the nearest names are 'neck'
    """
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if path and path in modules:
        return modules[path]
    close = nearest(path, filter(None, modules)) or [name for name, _ in model.named_children()]
    raise ValueError(
        f"no module {path!r} in {type(model).__name__}; the nearest names are {', '.join(map(repr, close))}"
    )


def find_tap(model: nn.Module, path: str) -> nn.Module:
    """Return the module at a dotted path, which must be one that runs itself: a list of modules does not.

    Args:
        model: the network.
        path: see `find_module`.

    Raises:
        ValueError: no module has this path, or it is a list or dict of modules; the message names what runs in its place.

    >>> head = nn.ModuleDict({"convs": nn.ModuleList([nn.ReLU(), nn.ReLU()])})
    >>> find_tap(head, "convs.1")
    ReLU()
    >>> find_tap(head, "convs")
    Traceback (most recent call last):
    ...
    ValueError: 'convs' is a ModuleList, which never runs as a module, so there is nothing to tap; tap one of its modules, \
'convs.0', 'convs.1'
    """
    module = find_module(model, path)
    if _runs(module):
        return module
    children = [f"{path}.{name}" for name, _ in module.named_children()]
    outer = path.rpartition(".")[0]
    while outer and not _runs(find_module(model, outer)):
        outer = outer.rpartition(".")[0]
    whole = f"{outer!r}, with student_levels and teacher_levels for those of its maps that count, or " if outer else ""
    shown = ", ".join(map(repr, children[:3])) + (f" to {children[-1]!r}" if len(children) > 3 else "")
    raise ValueError(
        f"{path!r} is a {type(module).__name__}, which never runs as a module, so there is nothing to tap; tap "
        f"{whole}one of its modules, {shown or 'of which it has none'}"
    )


def _runs(module: nn.Module) -> bool:
    """Whether a module has a forward of its own."""
    return type(module).forward is not nn.Module.forward


def flatten_maps(value: Any) -> list[Tensor]:
    """List the tensors of nested tuples, lists and dicts in order.

    >>> [int(t) for t in flatten_maps((torch.tensor(1), [torch.tensor(2), (torch.tensor(3),)]))]
    [1, 2, 3]
    """
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in flatten_maps(item)]
    return []


class _Hooks:
    """Hooks that live as long as a `with` block."""

    def __init__(self) -> None:
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


class FeatureTap(_Hooks):
    """Record the outputs of modules while the `with` block lasts.

    `tap[path]` is a tuple of outputs, one per call: a head shared by all pyramid levels runs once per level. A module
    that did not run gives an empty tuple. Outputs keep their graph; nothing is copied.

    Args:
        model: the network to observe.
        paths: dotted module paths, see `find_module`.

    Raises:
        ValueError: a path does not exist, or is a list of modules, see `find_tap`; on construction.
        ValueError: on reading, a later module changed an output in place, so its values are gone.

    >>> model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Sigmoid())
    >>> with FeatureTap(model, ["0"]) as tap:
    ...     _ = model(torch.zeros(1, 1, 2, 2)), model(torch.zeros(1, 1, 4, 4))
    >>> [tuple(output.shape) for output in tap["0"]]
    [(1, 1, 2, 2), (1, 1, 4, 4)]
    """

    def __init__(self, model: nn.Module, paths: Sequence[str]) -> None:
        super().__init__()
        self._modules = {path: find_tap(model, path) for path in paths}
        self._records: dict[str, list[tuple[Any, list[int]]]] = {path: [] for path in paths}

    def __enter__(self) -> FeatureTap:
        for path, module in self._modules.items():
            self._records[path] = []
            self._handles.append(module.register_forward_hook(self._recorder(self._records[path])))
        return self

    @staticmethod
    def _recorder(records: list[tuple[Any, list[int]]]) -> Callable[[nn.Module, Any, Any], None]:
        def record(module: nn.Module, inputs: Any, output: Any) -> None:
            records.append((output, [tensor._version for tensor in flatten_maps(output)]))

        return record

    def __getitem__(self, path: str) -> tuple[Any, ...]:
        if path not in self._records:
            raise ValueError(f"{path!r} is not tapped; tapped are {', '.join(map(repr, self._records))}")
        for output, versions in self._records[path]:
            if [tensor._version for tensor in flatten_maps(output)] != versions:
                raise ValueError(
                    f"the output of {path!r} must stay as it was, but a later module changed it in place (an in-place "
                    "activation?); tap that later module, or build it with inplace=False"
                )
        return tuple(output for output, _ in self._records[path])

    def maps(self, path: str) -> list[Tensor]:
        """Return all tensors that the module at `path` gave, call after call, as one list."""
        return flatten_maps(self[path])

    def clear(self) -> None:
        """Forget what was recorded, so that graphs can be freed."""
        for records in self._records.values():
            records.clear()


class InputTap(_Hooks):
    """Record the positional arguments of modules' calls while the `with` block lasts.

    For what no module returns: sampled proposals, assigned labels. `tap[path]` is a list with the tuple of arguments
    of each call; a module that did not run gives an empty list.

    Args:
        model: the network to observe.
        paths: dotted module paths, see `find_module`.

    Raises:
        ValueError: a path does not exist, or is a list of modules, see `find_tap`; on construction.

    >>> model = nn.Sequential(nn.ReLU(), nn.Sigmoid())
    >>> with InputTap(model, ["1"]) as tap:
    ...     _ = model(torch.tensor([-1.0, 2.0]))
    >>> tap["1"]
    [(tensor([0., 2.]),)]
    """

    def __init__(self, model: nn.Module, paths: Sequence[str]) -> None:
        super().__init__()
        self._modules = {path: find_tap(model, path) for path in paths}
        self._records: dict[str, list[tuple[Any, ...]]] = {path: [] for path in paths}

    def __enter__(self) -> InputTap:
        for path, module in self._modules.items():
            self._records[path] = []
            self._handles.append(module.register_forward_pre_hook(self._recorder(self._records[path])))
        return self

    @staticmethod
    def _recorder(records: list[tuple[Any, ...]]) -> Callable[[nn.Module, Any], None]:
        def record(module: nn.Module, arguments: Any) -> None:
            records.append(tuple(arguments))

        return record

    def __getitem__(self, path: str) -> list[tuple[Any, ...]]:
        return self._records[path]


class FeatureEdit(_Hooks):
    """Replace the output of a module by `edit(output)` while the `with` block lasts.

    Args:
        model: the network to edit.
        path: dotted module path, see `find_module`.
        edit: maps the list of the output's tensors to new tensors, in the same order and number.

    Raises:
        ValueError: the path does not exist, or is a list of modules, see `find_tap`; `edit` returned another number of
            tensors.

    >>> model = nn.Sequential(nn.Identity(), nn.Identity())
    >>> with FeatureEdit(model, "0", lambda maps: [2 * maps[0]]):
    ...     float(model(torch.tensor(3.0)))
    6.0
    """

    def __init__(self, model: nn.Module, path: str, edit: Callable[[list[Tensor]], Sequence[Tensor]]) -> None:
        super().__init__()
        self._module = find_tap(model, path)
        self._path = path
        self._edit = edit

    def __enter__(self) -> FeatureEdit:
        self._handles.append(self._module.register_forward_hook(self._replace))
        return self

    def _replace(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        before = flatten_maps(output)
        after = list(self._edit(before))
        if len(after) != len(before):
            raise ValueError(f"the edit of {self._path!r} must return {len(before)} tensors, got {len(after)}")
        return _rebuild(output, iter(after))


def _rebuild(value: Any, tensors: Any) -> Any:
    """Put new tensors into the nest of tuples, lists and dicts that the old ones stood in."""
    if isinstance(value, Tensor):
        return next(tensors)
    if isinstance(value, dict):
        return {key: _rebuild(item, tensors) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_rebuild(item, tensors) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(_rebuild(item, tensors) for item in value)
    return value
