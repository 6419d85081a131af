"""Places of the files that configs name: beside the config, in the working directory, or shipped with this package."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

CONFIGS = (Path(__file__).resolve().parents[1] / ".mim" / "configs").resolve()  # in a clone, the folder at its top
SHIPPED = CONFIGS.parent  # the shipped configs name files from here
_FOLDERS = ("configs", "data", "studies")  # of shipped files; a run's own output is never looked for there
_OUTSIDE, _DEFAULT = "FREQKD_DATA", "../shared/data"  # where the shipped configs find data outside the repository
_namers: dict[str, str] = {}  # folder of the last config that named a file which is not beside it, by its name


def find_file(name: str | os.PathLike[str]) -> str:
    """Return the path of a file by a name relative to the working directory, or to the folder of what this package ships.

    The name is returned as it is where the file is in the working directory, or nowhere, and where it is an address, an
    absolute path, or the name of an installed config. What `place_beside` found is an absolute path already.

    >>> find_file("no/such/file.pth")
    'no/such/file.pth'
    >>> os.path.isabs(find_file("configs/_base_/runtime_mmdet.py")) or os.path.isdir("configs")
    True
    """
    text = os.fspath(name)
    shipped = SHIPPED / text
    return str(shipped) if not os.path.exists(text) and _is_shipped(text) and shipped.is_file() else text


def where_looked(name: str | os.PathLike[str]) -> str:
    """Return the end of a message about a file that was not found: the folders where a relative name was looked for.

    >>> where_looked("/tmp/net.pth"), where_looked("net.pth") == f" (looked in {os.getcwd()})"
    ('', True)
    """
    text = os.fspath(name)
    if not _is_relative(text):
        return ""
    folders = [_namers.get(text, os.getcwd()), os.getcwd(), *([str(SHIPPED)] if _is_shipped(text) else [])]
    return f" (looked in {', '.join(dict.fromkeys(folders))})"


def where_to_put(path: str) -> str:
    """Return what to do about data that are not at a path: place them, or say where they are.

    >>> where_to_put("data/coco/train2017")
    'put the data there (data/README.md says how)'
    >>> where_to_put(os.path.join(os.environ.get(_OUTSIDE, _DEFAULT), "aquarium/images"))
    'put the data there (data/README.md says how), or set FREQKD_DATA to the folder that has aquarium/'
    """
    advice = "put the data there (data/README.md says how)"
    outside = os.path.join(os.environ.get(_OUTSIDE) or _DEFAULT, "")
    if not path.startswith(outside) or path == outside:
        return advice
    return f"{advice}, or set {_OUTSIDE} to the folder that has {path.removeprefix(outside).split('/')[0]}/"


def place_beside(named: Iterable[tuple[Any, str]], folder: str) -> None:
    """Replace the names of files that lie beside the config that names them by absolute paths.

    A name that leads to the same file from the working directory stays, and so does one of a file that is elsewhere: see
    `find_file`.

    Args:
        named: dicts and keys whose values may be names of files; other values stay.
        folder: that of the config.
    """
    folder = os.path.abspath(folder)
    for holder, key in named:
        name = holder.get(key) if isinstance(holder, Mapping) else None
        if not isinstance(name, str) or not _is_relative(name):
            continue
        beside = os.path.join(folder, name)
        if not os.path.isfile(beside):
            _namers[name] = folder
        elif not (os.path.exists(name) and os.path.samefile(beside, name)):
            holder[key] = beside  # type: ignore[index]


def named_files(config: Mapping[str, Any]) -> Iterator[tuple[Any, str]]:
    """Yield the dicts and keys of a training's config that name files to read: teacher, prompts, first weights.

    >>> [key for _, key in named_files(dict(load_from=None, model=dict(teacher={}, terms=dict(loss_freekd={}))))]
    ['load_from', 'config', 'checkpoint', 'prompts']
    """
    yield config, "load_from"
    model = config.get("model")
    if not isinstance(model, Mapping):
        return
    for key in ("config", "checkpoint"):
        yield model.get("teacher"), key
    terms = model.get("terms")
    for term in terms.values() if isinstance(terms, Mapping) else ():
        yield term, "prompts"
    yield from initial_weights(model)


def initial_weights(part: Any) -> Iterator[tuple[Any, str]]:
    """Yield the dicts and keys of a model's config that name initial weights: `init_cfg=dict(type='Pretrained')`, `pretrained`.

    A teacher is left out, because it has a checkpoint.

    >>> [key for _, key in initial_weights([dict(init_cfg=dict(type="Pretrained", checkpoint="net.pth"))])]
    ['checkpoint']
    """
    return ((holder, key) for holder, key, _ in initial_weights_by_slot(part))


def initial_weights_by_slot(part: Any, slot: str = "model") -> Iterator[tuple[Any, str, str]]:
    """Yield the dicts and keys of `initial_weights`, each with its slot.

    >>> model = dict(backbone=dict(init_cfg=dict(type="Pretrained", checkpoint="net.pth")))
    >>> [slot for _, _, slot in initial_weights_by_slot(model)]
    ['model.backbone.init_cfg.checkpoint']
    """
    for place, found in parts_of(part, slot):
        for key in ("checkpoint",) * (found.get("type") == "Pretrained") + ("pretrained",):
            if isinstance(found.get(key), str):
                yield found, key, f"{place}.{key}"


def parts_of(part: Any, slot: str = "model") -> Iterator[tuple[str, Any]]:
    """Yield the dicts of a part of a config, its own first and those of the teacher left out, each with its slot.

    >>> list(parts_of(dict(necks=[dict(type="FPN")], teacher=dict(type="Net"))))[1:]
    [('model.necks[0]', {'type': 'FPN'})]
    """
    if isinstance(part, Mapping):
        yield slot, part
        for key, value in part.items():
            if key != "teacher":
                yield from parts_of(value, f"{slot}.{key}")
    elif isinstance(part, (list, tuple)):
        for index, item in enumerate(part):
            yield from parts_of(item, f"{slot}[{index}]")


def _is_relative(name: str) -> bool:
    """Whether a name is a relative path: no address, and no name of an installed config."""
    return bool(name) and "::" not in name and "://" not in name and not os.path.isabs(name)


def _is_shipped(name: str) -> bool:
    """Whether a name can be that of a file that this package ships."""
    return _is_relative(name) and os.path.normpath(name).split(os.sep)[0] in _FOLDERS
