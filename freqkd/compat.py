"""Make either family of OpenMMLab packages, the original and the maintained one, resolve configs alike."""

from __future__ import annotations

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


def read_config(config: str | os.PathLike[str] | Mapping[str, Any]) -> Config:
    """Read a config: `"mmdet::..."`, `"mmseg::..."`, a file, or one that is in memory already.

    Raises:
        ValueError: no such config; the message says where it was looked for.
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
    return Config.fromfile(path)
