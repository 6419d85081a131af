"""Training in several processes: starting them, with or without an accelerator, and failing together."""

from __future__ import annotations

import atexit
import copy
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch.distributed as dist
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import get_rank, get_world_size, init_dist
from mmengine.utils.dl_utils import set_multi_processing

# How the backends of torch.distributed word that another process is gone.
_LOST = re.compile(
    r"connection (was )?(closed|reset|refused)|broken pipe|socket (timeout|closed)|remote process exited|"
    r"watchdog|timed out waiting|heartbeat|store->get|recvvalue failed",
    re.IGNORECASE,
)
_groups: dict[Any, Any] = {}


class ProcessError(ValueError):
    """Another process of this run refused to start, or ended; the message says which and why, where that is known."""


def start_processes(launcher: str, env_cfg: Mapping[str, Any] | None = None) -> None:
    """Join the processes that a launcher started, once; without an accelerator they meet through gloo.

    MMEngine's Runner finds them joined. It would do so itself, but only after everything was checked.

    Args:
        launcher: "none", "pytorch", "slurm" or "mpi".
        env_cfg: of the config; its `mp_cfg` and `dist_cfg` count, as they do for MMEngine.
    """
    if launcher == "none" or dist.is_initialized():
        return
    atexit.register(_leave)
    options = dict(env_cfg or {})
    if launcher == "pytorch" and get_device() == "cpu":
        dist.init_process_group("gloo")
        return
    set_multi_processing(**dict(options.get("mp_cfg") or {}), distributed=True)
    init_dist(launcher, **dict(options.get("dist_cfg") or {}))


@contextmanager
def agreed() -> Iterator[None]:
    """Run a block in every process; where it raises in one of them, all raise.

    Without it, the others would wait for the refusing one until the backend's time-out, half an hour by default.

    Raises:
        ProcessError: the block raised in another process, or another process has ended.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    if not dist.is_initialized() or get_world_size() == 1:
        if failure is not None:
            raise failure
        return
    verdicts: list[Any] = [None] * get_world_size()
    try:
        dist.all_gather_object(verdicts, failure and f"{type(failure).__name__}: {failure}", group=_cpu_group())
    except RuntimeError as error:
        if failure is None:
            raise ProcessError(f"another process of this run ended before it could start ({_first(error)})") from None
    if failure is not None:
        raise failure
    for rank, verdict in enumerate(verdicts):
        if verdict:
            raise ProcessError(f"process {rank} of {len(verdicts)} refuses to start, so this one ends, too: {verdict}")


@contextmanager
def lost_processes_named() -> Iterator[None]:
    """Say of an error inside the block that another process is gone, where that is what it means.

    Raises:
        ProcessError: in its place.
    """
    try:
        yield
    except RuntimeError as error:
        if not dist.is_initialized() or not _LOST.search(str(error)):
            raise
        raise ProcessError(
            f"process {get_rank()} of {get_world_size()} lost another one, which was killed or has failed: see its own "
            f"output ({_first(error)}); start all again with --resume to go on from the last checkpoint"
        ) from error


def _leave() -> None:
    """Leave the other processes before this one ends: gloo's threads would abort it where another is gone already."""
    if dist.is_initialized() and dist.get_backend() == "gloo":
        with suppress(RuntimeError):
            dist.destroy_process_group()


def _first(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]


def _cpu_group() -> Any:
    """Return a group that exchanges Python objects without an accelerator and notices at once when a process has ended."""
    if dist.get_backend() == "gloo":
        return None
    world = dist.group.WORLD
    if world not in _groups:
        _groups[world] = dist.new_group(backend="gloo")
    return _groups[world]


def without_devices(config: Config) -> Config:
    """Return a config whose Runner wraps the model for several processes without an accelerator.

    MMEngine's wrapper names the CUDA device of the process; here it is told of none.
    """
    config = Config(copy.deepcopy(config.to_dict()))
    wrapper = dict(
        type="MMDistributedDataParallel",
        broadcast_buffers=False,
        find_unused_parameters=config.get("find_unused_parameters", False),
    )
    config.model_wrapper_cfg = {**wrapper, **config.get("model_wrapper_cfg", {}), "device_ids": None}
    return config
