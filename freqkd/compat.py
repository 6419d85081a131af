"""Make either family of OpenMMLab packages, the original and the maintained one, resolve configs alike."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

from mmengine.config import Config


def patch_config_scopes() -> None:
    """Let `mmseg::` bases resolve.

    MMEngine maps the module `mmseg` to a distribution named `mmsegmentation`; the maintained family installs another
    name and ships its configs inside the module itself. Safe to call more than once.
    """
    from mmengine.config.utils import MODULE2PACKAGE

    try:
        distribution("mmsegmentation")
    except PackageNotFoundError:
        MODULE2PACKAGE["mmseg"] = "mmseg"


def run_on_cpu_processes(config: Config) -> Config:
    """Return a config whose Runner works in several processes without an accelerator.

    MMEngine's launcher picks a CUDA device and its wrapper names one. So the processes meet here, through gloo, and the
    wrapper is told of no device. For processes that torchrun started.
    """
    import torch.distributed

    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    config = Config(copy.deepcopy(config.to_dict()))
    wrapper = dict(
        type="MMDistributedDataParallel",
        broadcast_buffers=False,
        find_unused_parameters=config.get("find_unused_parameters", False),
    )
    config.model_wrapper_cfg = {**wrapper, **config.get("model_wrapper_cfg", {}), "device_ids": None}
    return config


def read_config(config: str | os.PathLike[str] | Mapping[str, Any]) -> Config:
    """Read a config: `"mmdet::..."`, `"mmseg::..."`, a file, or one that is in memory already.

    Raises:
        ValueError: no such config (the message says where it was looked for), or one that is no Python.
    """
    patch_config_scopes()
    if isinstance(config, Config):
        return config
    if isinstance(config, Mapping):
        return Config(dict(config))
    name = str(config)
    if "::" in name:
        try:
            path, _ = Config._get_cfg_path(name, "")
        except Exception as error:
            raise ValueError(f"config {name!r} not found in the installed package ({error}); check its name") from None
    else:
        path = name
    if not os.path.isfile(path):
        raise ValueError(f"config not found: {name}; check the path (relative to {os.getcwd()})")
    try:
        return Config.fromfile(path)
    except SyntaxError as error:
        raise ValueError(
            f"config {error.filename if os.path.isfile(str(error.filename)) else name} is no valid Python: {error.msg}, "
            f"line {error.lineno}"
        ) from None
