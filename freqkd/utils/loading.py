"""Safe reading of every checkpoint that MMEngine or torch loads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.dist import barrier, get_rank
from mmengine.logging import print_log
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from freqkd.utils.checkpoints import EXTRA_PREFIX, check_content, load_safely, read_checkpoint
from freqkd.utils.patches import replaced

_LOCAL = ("load_from_local", "load_from_http")


@dataclass
class Loading:
    """The state of `guarded_loading`.

    Attributes:
        trust: files may run code.
        kept: checkpoints that were read and checked before MMEngine asks for them, by name.
    """

    trust: bool = False
    kept: dict[str, dict[str, Any]] = field(default_factory=dict)


_active: list[Loading] = []


def keep_checkpoint(name: str, checkpoint: dict[str, Any]) -> None:
    """Let MMEngine load a checkpoint that was read and checked, rather than its file, which may have changed since.

    It is returned once. Outside `guarded_loading`, this does nothing.
    """
    if _active:
        _active[-1].kept[str(name)] = checkpoint


def keep_student(name: str, checkpoint: dict[str, Any]) -> None:
    """Let a student load the checkpoint of its distillation without a warning about what was trained beside it.

    See `keep_checkpoint`; the weights that are not the student's are taken out of `checkpoint`.
    """
    state = checkpoint["state_dict"]
    for key in [key for key in state if key.startswith(EXTRA_PREFIX)]:
        del state[key]
    keep_checkpoint(name, checkpoint)


def trust_checkpoints(trust: bool) -> None:
    """Set whether files may run code until the end of `guarded_loading`."""
    if _active:
        _active[-1].trust = trust


@contextmanager
def guarded_loading(trust: bool = False) -> Iterator[Loading]:
    """Read checkpoints inside this block as tensors and plain data only.

    MMEngine's `CheckpointLoader`, which serves `load_from`, `resume` and `init_cfg=dict(type='Pretrained')`, reads files and
    addresses by `read_checkpoint`; the same rule holds for its other schemes and for every `torch.load`. A nested block
    shares the kept checkpoints of the outer one and has its own `trust`.

    Args:
        trust: unpickle anything, which runs code from the file.

    Raises:
        CheckpointError: inside the block, see `read_checkpoint`.
    """
    loading = Loading(trust or bool(_active and _active[-1].trust), _active[-1].kept if _active else {})
    _active.append(loading)
    try:
        with ExitStack() as patches:
            if len(_active) == 1:
                _patch(patches, torch.load)
            yield loading
    finally:
        _active.pop()


def _patch(patches: ExitStack, load: Callable[..., Any]) -> None:
    """Replace MMEngine's loaders and `torch.load` by the safe reader."""

    def safe_load(f: Any, map_location: Any = None, *args: Any, **options: Any) -> Any:
        options.pop("weights_only", None)
        name = f if isinstance(f, str) else getattr(f, "name", type(f).__name__)
        return load_safely(f, str(name), _active[-1].trust, load, map_location=map_location, **options)

    safe_load.__wrapped__ = load  # type: ignore[attr-defined]  # for `load_safely`, whose caller says itself whom to trust

    def read(filename: str, map_location: Any = None, **_: Any) -> dict[str, Any]:
        return _read(str(filename))

    def load_checkpoint(
        cls: type[CheckpointLoader], filename: str, map_location: Any = None, logger: Any = "current"
    ) -> dict[str, Any]:
        name = str(filename)
        if name in _active[-1].kept:
            return _active[-1].kept.pop(name)
        loader = cls._get_checkpoint_loader(name)
        print_log(f"Loads checkpoint {name}", logger=logger)
        if loader.__name__ in _LOCAL:
            return _read(name)
        found = loader(name, map_location)
        return check_content(found, name) if isinstance(found, dict) else found

    patches.enter_context(replaced(torch, "load", safe_load))
    patches.enter_context(replaced(CheckpointLoader, "load_checkpoint", classmethod(load_checkpoint)))
    for name in _LOCAL:  # the loaders of other schemes call these with the address that a name stands for
        patches.enter_context(replaced(mmengine_checkpoint, name, read))


def _read(name: str) -> dict[str, Any]:
    """Read a file or an address, which the first of several processes downloads."""
    if not name.startswith(("http://", "https://")):
        return read_checkpoint(name, _active[-1].trust)
    if get_rank() > 0:
        barrier()
    try:
        return read_checkpoint(name, _active[-1].trust)
    finally:
        if get_rank() == 0:
            barrier()
