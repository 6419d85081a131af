"""Reading of configs with either family of OpenMMLab packages, the original and the maintained one."""

from __future__ import annotations

import os
import traceback
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import mmengine.config.utils
import mmengine.registry
from mmengine.config import Config, ConfigDict
from mmengine.config.lazy import LazyAttr, LazyObject
from mmengine.config.utils import MODULE2PACKAGE, _get_package_and_cfg_path
from mmengine.registry import Registry
from mmengine.utils import get_installed_path, get_object_from_string

import freqkd
from freqkd.utils.checks import did_you_mean
from freqkd.utils.errors import in_slot, worded
from freqkd.utils.patches import replaced
from freqkd.utils.paths import CONFIGS, find_file, named_files, place_beside, where_looked
from freqkd.utils.slots import check_slots

_DICTS = (dict, OrderedDict, ConfigDict)
_OWN = "freqkd::"
_find_config = Config._get_cfg_path
_load_once = lru_cache(maxsize=None)(mmengine.config.utils.load)


def patch_config_scopes() -> None:
    """Let MMEngine find `freqkd::` configs, and `mmseg::` ones in the maintained family; safe to call more than once.

    MMEngine looks for the latter in the distribution `mmsegmentation`, while this family's has another name and holds its
    configs in the module itself.
    """
    from mmengine.hub import hub

    try:
        distribution("mmsegmentation")
    except PackageNotFoundError:
        MODULE2PACKAGE["mmseg"] = "mmseg"
    MODULE2PACKAGE["freqkd"] = "freqkd"
    # For every name, MMEngine reads all metafiles of a package, which takes half a second.
    mmengine.config.utils.load = _load_once
    Config._get_cfg_path = staticmethod(_find_own_config)
    hub._get_package_and_cfg_path = _split_own_config
    hub.get_installed_path = _installed_path


def _find_own_config(cfg_path: str, filename: str) -> tuple[str, str | None]:
    """Return the path and scope of an entry of `_base_`, as `Config._get_cfg_path` does.

    A `freqkd::` config has no scope: types of mmdet and mmseg are not found from this package's registries.
    """
    if not cfg_path.startswith(_OWN):
        try:
            return _find_config(cfg_path, filename)
        except FileNotFoundError:
            package, name = _get_package_and_cfg_path(cfg_path)
            raise _no_config(name, Path(get_installed_path(package), ".mim", "configs")) from None
    name = cfg_path.removeprefix(_OWN)
    path = CONFIGS / name
    if not path.is_file():
        raise _no_config(name, CONFIGS)
    return str(path), None


def _no_config(name: str, folder: Path) -> FileNotFoundError:
    """Return the error of a config that a folder lacks, with the most similar name; the names are long and much alike."""
    hint = did_you_mean(name, [str(one.relative_to(folder)) for one in folder.rglob("*.py")], cutoff=0.7)
    return FileNotFoundError(f"no file {name} in {folder}{hint}")


def _split_own_config(cfg_path: str) -> tuple[str, str]:
    """Return the package and the path in it of a config, for `get_config`; MMEngine's own takes no folder with a hyphen."""
    if cfg_path.startswith(_OWN):
        return "freqkd", cfg_path.removeprefix(_OWN)
    found: tuple[str, str] = _get_package_and_cfg_path(cfg_path)
    return found


def _installed_path(package: str) -> str:
    """Return the folder of a package, for `get_config`; the original MMEngine does not find an editable install's."""
    return str(Path(freqkd.__file__).parent) if package == "freqkd" else str(get_installed_path(package))


def read_config(config: str | os.PathLike[str] | Mapping[str, Any], slot: str = "") -> Config:
    """Read a config: `"freqkd::..."`, `"mmdet::..."`, `"mmseg::..."`, a file, or a dict.

    Types that stand in it as classes are named, see `name_types`, the modules that a file and its bases import
    (`custom_imports`) are joined, and the files that it names are looked for beside it, see `place_beside`.

    Args:
        config: the name or the content.
        slot: what names it, for the message where it does not exist.

    Raises:
        ValueError: the config does not exist, cannot be run, or has a value of a wrong type.
    """
    patch_config_scopes()
    if isinstance(config, Config):
        return name_types(config)
    if isinstance(config, Mapping):
        return name_types(Config(dict(config)))
    name = str(config)
    with in_slot(slot) if slot else nullcontext():
        path = _installed_config(name) if "::" in name else find_file(name)
        if not os.path.isfile(path):
            raise ValueError(f"config not found: {name}; check the path{where_looked(name)}")
    with worded(f"config {name} cannot be read"):
        read = _run_config(name, path)
        check_slots(read)
    place_beside(named_files(read._cfg_dict), os.path.dirname(path))
    return read


def _installed_config(name: str) -> str:
    """Return the path of a config of an installed package, by its name."""
    try:
        return str(Config._get_cfg_path(name, "")[0])
    except Exception as error:
        raise ValueError(f"config {name!r} not found in the installed package ({error}); check its name") from None


def name_types(config: Config) -> Config:
    """Return a config with the name of every `type` that stands in it as a class or function, as in a pure-Python config.

    So the tools and what they write need to know one way only. Other imported values are built; a type that has no name by
    which it is found, such as a class of a function, stays. A config without any is returned as it is.

    >>> from collections import Counter
    >>> from mmengine.hooks import CheckpointHook
    >>> found = name_types(Config(dict(hook=dict(type=CheckpointHook), parts=[dict(type=Counter)])))
    >>> found.hook.type, found.parts[0].type
    ('CheckpointHook', 'collections.Counter')
    """
    if not _holds_types(config._cfg_dict):
        return config
    imported = getattr(config, "_imported_names", ())
    kept = {key: value for key, value in dict.items(config._cfg_dict) if key not in imported}
    return Config(_named(kept), filename=config.filename)


def _is_type(key: Any, value: Any) -> bool:
    return key == "type" and callable(value) and getattr(value, "__module__", "builtins") != "builtins"


def _holds_types(value: Any, key: Any = None) -> bool:
    if isinstance(value, (LazyObject, LazyAttr)) or _is_type(key, value):
        return True
    if type(value) in _DICTS:
        return any(_holds_types(item, name) for name, item in dict.items(value))
    return isinstance(value, (list, tuple)) and any(map(_holds_types, value))


def _named(value: Any, key: Any = None, scope: str | None = None) -> Any:
    if isinstance(value, (LazyObject, LazyAttr)):
        value = value.build()
    if _is_type(key, value):
        return name_of(value, scope)
    if type(value) in _DICTS:
        scope = dict.get(value, "default_scope") or scope
        return {name: _named(item, name, scope) for name, item in dict.items(value)}
    return type(value)(_named(item, None, scope) for item in value) if type(value) in (list, tuple) else value


def name_of(kind: Any, scope: str | None = None) -> Any:
    """Return the name by which a registry finds a class or function, itself where there is none.

    That is `freqkd.X` in this package; the registered name, with its scope where it needs one; else the path in its module.

    Args:
        kind: the class or function.
        scope: the `default_scope` of the config.
    """
    path = f"{kind.__module__}.{getattr(kind, '__qualname__', '')}"
    if path.startswith("freqkd."):
        return f"freqkd.{kind.__name__}"
    for registry, root in _registries():
        words = [word for word, one in registry.module_dict.items() if one is kind]
        if words:
            word = kind.__name__ if kind.__name__ in words else words[0]
            # A child's own class of this name would be found first; nothing has this package's scope as its default.
            others = [name for name, child in root.children.items() if word in child.module_dict and name != "freqkd"]
            bare = registry.scope == scope or (registry is root and not others)
            return word if bare else f"{registry.scope}.{word}"
    if path.startswith("mmcv.ops."):
        return kind.__name__  # heads look these up in mmcv.ops by their bare name
    try:
        return path if get_object_from_string(path) is kind else kind
    except (AttributeError, ImportError):
        return kind


def _registries() -> Iterator[tuple[Registry, Registry]]:
    """Yield all registries, each with MMEngine's own, whose scope names need not have."""
    for root in vars(mmengine.registry).values():
        if isinstance(root, Registry):
            yield root, root
            yield from ((child, root) for child in root.children.values())


_merge = Config._merge_a_into_b


def _merge_with_imports(a: dict[str, Any], b: dict[str, Any], *options: Any, **named: Any) -> dict[str, Any]:
    """Merge a config into its base as MMEngine does, but keep the modules that the base imports."""
    imports = None
    if isinstance(a, dict) and isinstance(b, dict):
        own, base = a.get("custom_imports"), b.get("custom_imports")
        if isinstance(own, dict) and isinstance(base, dict) and not own.get("_delete_"):
            imports = [*_listed(base.get("imports")), *_listed(own.get("imports"))]
    merged: dict[str, Any] = _merge(a, b, *options, **named)
    if imports:
        merged["custom_imports"]["imports"] = list(dict.fromkeys(imports))
    return merged


def _listed(imports: Any) -> list[str]:
    return [imports] if isinstance(imports, str) else list(imports or [])


def _read_by(error: BaseException) -> str:
    """Return the file that MMEngine was reading when it raised: the config or one of its bases."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_code.co_name == "_file2dict"]
    return str(frames[-1].f_locals.get("filename", "")) if frames else ""


def _run_config(name: str, path: str) -> Config:
    try:
        with replaced(Config, "_merge_a_into_b", staticmethod(_merge_with_imports)):
            return name_types(Config.fromfile(path))
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
