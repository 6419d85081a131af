"""Reading of configs with either family of OpenMMLab packages, the original and the maintained one."""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

from mmengine.config import Config

from freqkd.utils.errors import worded
from freqkd.utils.slots import check_slots


def patch_config_scopes() -> None:
    """Let MMEngine find `mmseg::` configs in the maintained family; safe to call more than once.

    MMEngine looks for them in the distribution `mmsegmentation`, while this family's has another name and holds its configs
    in the module itself.
    """
    from mmengine.config.utils import MODULE2PACKAGE

    try:
        distribution("mmsegmentation")
    except PackageNotFoundError:
        MODULE2PACKAGE["mmseg"] = "mmseg"


def read_config(config: str | os.PathLike[str] | Mapping[str, Any]) -> Config:
    """Read a config: `"mmdet::..."`, `"mmseg::..."`, a file, or a dict.

    Raises:
        ValueError: the config does not exist, cannot be run, or has a value of a wrong type.
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
    with worded(f"config {name} cannot be read"):
        read = _run_config(name, path)
        check_slots(read)
    return read


def _read_by(error: BaseException) -> str:
    """Return the file that MMEngine was reading when it raised: the config or one of its bases."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_code.co_name == "_file2dict"]
    return str(frames[-1].f_locals.get("filename", "")) if frames else ""


def _run_config(name: str, path: str) -> Config:
    try:
        return Config.fromfile(path)
    except SyntaxError as error:
        raise ValueError(
            f"config {_read_by(error) or name} is not valid Python: {error.msg}, line {error.lineno}"
        ) from None
    except ImportError as error:  # MMEngine adds the whole search path
        raise ValueError(
            f"config {name} names a module that cannot be imported ({error.__cause__ or error}); install it, set PYTHONPATH "
            "so that it is found, or correct custom_imports"
        ) from error
    except SystemExit as error:
        raise ValueError(f"config {name} must not end the program, but it calls exit ({error}); remove that") from None
