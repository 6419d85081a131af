"""Manifest of a cache: what its maps depend on, written by the first process and compared by every other."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from freqkd.datasets.fixed_views import Source, canonical, fingerprint, text_of
from freqkd.teacher.preprocessing import describe, padding_rule
from freqkd.teacher.teacher import Teacher
from freqkd.utils.checkpoints import CheckpointError

NAME = "manifest.json"
_FORMAT = 3
_SHOWN = 100  # characters of a long line around the first that differs
_APART = ("train_cfg", "test_cfg", "data_preprocessor")  # of the teacher's config, nothing that its maps depend on
WORDS = {
    "format": "format of the files",
    "teacher": "teacher's weights",
    "network": "teacher's config",
    "normalization": "teacher's normalisation",
    "precision": "teacher's precision",
    "taps": "taps",
    "size": "padding of the images",
    "images": "number of images",
    "views": "views",
    "seed": "seed of the views",
    "data": "data set",
    "pipeline": "pipeline",
}


def make_key(teacher: Teacher, source: Source) -> dict[str, Any]:
    """Collect everything that the maps of a prepared teacher depend on, in plain data."""
    weights = teacher.hash  # builds the network, whose config is known then
    network = tuple(f"{name}: {canonical(part)}" for name, part in teacher.network.items() if name not in _APART)
    return dict(
        format=_FORMAT,
        teacher=weights,
        network=fingerprint(network),
        normalization=describe(teacher.model.data_preprocessor),
        precision=teacher.acceleration.autocast or "float32",
        taps=sorted(teacher.paths),
        size=padding_rule(teacher.preprocessor),
        **source._asdict(),
    )


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Read a cache's manifest; None where there is none yet.

    Raises:
        CheckpointError: it is damaged, or there are maps without one.
    """
    has_maps = (folder / "maps").exists()  # before the manifest is looked for: it is written first
    try:
        with open(folder / NAME) as file:
            found = json.load(file)
        return dict(key=dict(found["key"]), text=dict(found["text"]))
    except FileNotFoundError:
        if has_maps:
            raise CheckpointError(
                f"teacher cache {folder} holds maps without a {NAME} that says what they were made for; delete the folder, or "
                "name another dir in teacher.cache"
            ) from None
        return None
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(
            f"teacher cache {folder}: {NAME} is damaged; delete the folder, or name another dir in teacher.cache"
        ) from None


def write_manifest(folder: Path, key: Mapping[str, Any]) -> None:
    """Write a manifest, whole, unless another process has written one."""
    folder.mkdir(parents=True, exist_ok=True)
    text = {part: text_of(str(key[part])) for part in ("network", "data", "pipeline")}
    handle, draft = tempfile.mkstemp(dir=folder, prefix=f".{NAME}.")
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(dict(key=key, text=text), file, indent=1)
        os.chmod(draft, 0o644)
        try:
            os.link(draft, folder / NAME)
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            os.replace(draft, folder / NAME)
    finally:
        Path(draft).unlink(missing_ok=True)


def check_manifest(folder: Path, found: Mapping[str, Any], key: Mapping[str, Any]) -> None:
    """Refuse a cache that was made for something else.

    Raises:
        CheckpointError: something differs; the message names all that does, as it is in the cache and in this run.
    """
    faults = []
    for part, words in WORDS.items():
        there, here = found["key"].get(part), key[part]
        if there == here:
            continue
        lines = found["text"].get(part) or (), text_of(str(here))
        if all(lines):
            there, here = first_difference(*lines)
        elif part == "teacher":
            there, here = str(there)[:12], str(here)[:12]
        faults.append(f"{words} ({there} in the cache, {here} in this run)")
    if faults:
        raise CheckpointError(
            f"teacher cache {folder} was made for something else: {'; '.join(faults)}; name another dir in teacher.cache, or "
            "delete this one"
        )


def first_difference(there: Sequence[str], here: Sequence[str]) -> tuple[str, str]:
    """Return the first lines in which two texts differ, cut to where they do.

    >>> first_difference(["Resize 4", "Flip"], ["Resize 4", "Flip 0.5"])
    ('Flip', 'Flip 0.5')
    >>> first_difference(["Resize 4", "Flip"], ["Resize 4"])
    ('Flip', 'nothing')
    """
    for number in range(max(len(there), len(here))):
        one, other = (lines[number] if number < len(lines) else "nothing" for lines in (there, here))
        if one != other:
            equal = next(
                (at for at, pair in enumerate(zip(one, other)) if pair[0] != pair[1]), min(len(one), len(other))
            )
            start = max(0, equal - _SHOWN // 2)
            cut = [text[start : start + _SHOWN] for text in (one, other)]
            return ("..." if start else "") + cut[0], ("..." if start else "") + cut[1]
    return "nothing", "nothing"
