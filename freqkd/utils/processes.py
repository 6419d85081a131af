"""Training in several processes: joining them, with or without an accelerator, and stopping together."""

from __future__ import annotations

import atexit
import copy
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import all_reduce, get_rank, get_world_size, init_dist
from mmengine.model import is_model_wrapper
from mmengine.utils.dl_utils import set_multi_processing
from torch import Tensor, nn

# Messages of torch.distributed's backends when another process has ended.
_LOST = re.compile(
    r"connection (was )?(closed|reset|refused)|broken pipe|socket (timeout|closed)|remote process exited|"
    r"watchdog|timed out waiting|heartbeat|store->get|recvvalue failed",
    re.IGNORECASE,
)


class ProcessError(ValueError):
    """Another process of this run refused to start, or ended; the message says which one, and why where that is known."""


def start_processes(launcher: str, env_cfg: Mapping[str, Any] | None = None) -> None:
    """Join the processes that a launcher started, once; without an accelerator by gloo.

    MMEngine's Runner would do so itself, but only after the checks, which all processes have to share, and on accelerators
    alone.

    Args:
        launcher: "none", "pytorch", "slurm" or "mpi".
        env_cfg: the config's, of which MMEngine reads `mp_cfg` and `dist_cfg`.

    Raises:
        ValueError: the address of the first process cannot be told from what the launcher has set.
    """
    if launcher == "none" or dist.is_initialized():
        return
    options = dict(env_cfg or {})
    dist_cfg = dict(options.get("dist_cfg") or {})
    os.environ.update(rank_variables(launcher, dist_cfg.get("port")))
    atexit.register(_leave)
    if get_device() == "cpu":
        dist.init_process_group("gloo")
        return
    set_multi_processing(**dict(options.get("mp_cfg") or {}), distributed=True)
    init_dist(launcher, **dist_cfg)


def rank_variables(launcher: str, port: int | None = None) -> dict[str, str]:
    """Return the environment variables of torchrun, made of those of the launcher; what is set already stays.

    Args:
        launcher: "pytorch", which sets them itself, "slurm" or "mpi" (Open MPI).
        port: of the first process, where `MASTER_PORT` is not set; None: 29500, as in torch.

    Raises:
        ValueError: the address of the first process cannot be told.

    >>> rank_variables("pytorch")
    {}
    """
    known = os.environ
    if launcher == "slurm":
        ranks = [known["SLURM_PROCID"], known["SLURM_NTASKS"], known.get("SLURM_LOCALID") or _local_rank()]
    elif launcher == "mpi":
        ranks = [known[f"OMPI_COMM_WORLD_{name}"] for name in ("RANK", "SIZE", "LOCAL_RANK")]
    else:
        return {}
    address = known.get("MASTER_ADDR") or (_first_node() if launcher == "slurm" else _this_node())
    places = [address, known.get("MASTER_PORT") or str(port or 29500)]
    return dict(zip(("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"), [*ranks, *places]))


def _local_rank() -> str:
    """Return the index of a process of Slurm on its node, where Slurm does not say it."""
    return str(int(os.environ["SLURM_PROCID"]) % max(torch.cuda.device_count(), 1))


def _first_node() -> str:
    """Return the first node of a job of Slurm, whose list may be abbreviated: `node[03-05],other`."""
    nodes = os.environ["SLURM_NODELIST"]
    if "[" not in nodes:
        return nodes.split(",")[0]
    with suppress(OSError, subprocess.CalledProcessError):
        names = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
        if names.stdout.split():
            return names.stdout.split()[0]
    raise ValueError(
        f"MASTER_ADDR must be set to the first node of SLURM_NODELIST={nodes}, which `scontrol show hostnames` does not "
        "expand here; export it before srun"
    )


def _this_node() -> str:
    """Return the address of this node, where all processes of Open MPI run on it."""
    size, here = (os.environ.get(f"OMPI_COMM_WORLD_{name}") for name in ("SIZE", "LOCAL_SIZE"))
    if size != here:
        raise ValueError(
            f"MASTER_ADDR must be set to the node of the first process: {here or 'an unknown number'} of the {size} processes "
            "run on this node, and Open MPI does not name the others; add -x MASTER_ADDR=... to mpirun"
        )
    return "127.0.0.1"


@contextmanager
def agreed() -> Iterator[None]:
    """Run a block in every process; where it raises in one of them, all of them raise.

    The others would otherwise wait until the backend's time-out, half an hour by default.

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
    message = failure and f"{type(failure).__name__}: {failure}"
    messages: list[Any] = [None] * get_world_size()
    try:
        dist.all_gather_object(messages, message, group=_cpu_group())
    except RuntimeError as error:
        if failure is None:
            raise ProcessError(f"another process of this run ended before it could start ({_first(error)})") from None
    if failure is not None:
        raise failure
    for rank, message in enumerate(messages):
        if message:
            raise ProcessError(
                f"process {rank} of {len(messages)} refuses to start, so this one ends as well: {message}"
            )


@contextmanager
def lost_processes_named() -> Iterator[None]:
    """Name the cause of errors inside the block that mean that another process has ended.

    Raises:
        ProcessError: in place of such an error.
    """
    try:
        yield
    except RuntimeError as error:
        if not dist.is_initialized() or not _LOST.search(str(error)):
            raise
        raise ProcessError(
            f"process {get_rank()} of {get_world_size()} lost another one, which was killed or has failed: see its own "
            f"output ({_first(error)}); start all again with --resume to continue from the last checkpoint"
        ) from error


def _leave() -> None:
    """Leave gloo's groups at exit, and end their threads: one that is still at work when Python ends may abort the process."""
    if not dist.is_initialized():
        return
    with suppress(RuntimeError):
        if dist.get_backend() == "gloo":
            dist.destroy_process_group()
        elif _gloo_beside.cache_info().currsize:
            dist.destroy_process_group(_gloo_beside(dist.group.WORLD))
    _gloo_beside.cache_clear()  # without a reference, a group ends its threads


def _first(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]


def _cpu_group() -> Any:
    """Return a group that exchanges Python objects on the CPU and notices at once when a process has ended."""
    world = dist.group.WORLD
    return world if dist.get_backend() == "gloo" else _gloo_beside(world)


@cache
def _gloo_beside(world: Any) -> Any:
    return dist.new_group(backend="gloo")


def mean_over_processes(number: float, device: torch.device) -> Tensor:
    """Return the mean of a number that every process has, as a tensor on a device."""
    mean = torch.tensor(float(number), device=device)
    all_reduce(mean, op="mean")
    return mean


def unwrapped(model: nn.Module) -> Any:
    """Return the model inside MMEngine's wrapper for several processes, or the model itself."""
    return model.module if is_model_wrapper(model) else model


def without_devices(config: Config) -> Config:
    """Return the config for several processes without an accelerator: MMEngine's wrappers would ask for a CUDA device."""
    config = Config(copy.deepcopy(config.to_dict()))
    wrapper = dict(
        type="MMDistributedDataParallel",
        broadcast_buffers=False,
        find_unused_parameters=config.get("find_unused_parameters", False),
    )
    if config.get("runner_type", "Runner") == "Runner":
        config.model_wrapper_cfg = {**wrapper, **config.get("model_wrapper_cfg", {}), "device_ids": None}
        return config
    strategy = dict(config.get("strategy") or dict(type="DDPStrategy"))  # of FlexibleRunner
    given = strategy.get("model_wrapper") or {}
    if strategy["type"] == "FSDPStrategy":
        strategy["model_wrapper"] = {"type": "MMFullyShardedDataParallel", **given, "device_id": "cpu"}
    elif strategy["type"] == "DDPStrategy":
        strategy["model_wrapper"] = {**wrapper, **given, "device_ids": None}
    config.strategy = strategy
    return config
