"""Prompt files: whose prompts they are, and what for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from freqkd.checkpoints import CheckpointError, read_checkpoint
from freqkd.distillers.teacher import Teacher
from freqkd.wavelets import HAAR_NAMES

TEACHER_HASH = "teacher_hash"


def describe_use(prompts: nn.ModuleList, tap: str, levels: Sequence[int] | None) -> dict[str, Any]:
    """Return what prompts are for, which must be the same in both stages: a file's shapes do not tell all of it.

    Args:
        prompts: one `FrequencyPrompt` for each level.
        tap: path of the teacher's module whose maps they mask.
        levels: indices of these maps; None: all, as many as there are prompts.

    >>> from freqkd.prompts import FrequencyPrompt
    >>> describe_use(nn.ModuleList([FrequencyPrompt(4, wavelet="db1")]), "neck", None)
    {'tap': 'neck', 'levels': [0], 'wavelet': 'haar', 'bands': 'subband', 'depth': 3, 'score': 'signed'}
    """
    use: dict[str, Any] = dict(tap=tap, levels=list(range(len(prompts)) if levels is None else levels))
    for name in ("wavelet", "bands", "depth", "score"):
        value = getattr(prompts[0], name, None) if len(prompts) else None
        if value is not None:
            use[name] = "haar" if name == "wavelet" and value in HAAR_NAMES else value
    return use


def read_prompts(path: str, teacher: Teacher, use: Mapping[str, Any] | None = None) -> dict[str, Tensor]:
    """Read a prompt checkpoint made for this teacher.

    Args:
        path: the file.
        teacher: whose features the prompts shall mask.
        use: what for, see `describe_use`; None: not compared. What an older file does not say is not compared either.

    Raises:
        CheckpointError: missing or damaged file, prompts of another teacher, or of another use.
    """
    if not os.path.isfile(path):
        raise CheckpointError(
            f"prompt checkpoint not found: {path}; train the prompts first (python tools/train.py PROMPT_CONFIG)"
        )
    checkpoint = read_checkpoint(path)
    held = checkpoint.get("state_dict", checkpoint)
    state = (
        {key: value for key, value in held.items() if isinstance(value, Tensor)} if isinstance(held, Mapping) else {}
    )
    stamp = state.pop(TEACHER_HASH, None)
    if stamp is None or stamp.dtype != torch.uint8 or stamp.dim() != 1:
        raise CheckpointError(f"{path} is no prompt checkpoint: it names no teacher; use the file of the prompt stage")
    named = bytes(stamp.tolist()).hex()
    if named != teacher.hash:
        raise CheckpointError(
            f"prompt checkpoint {path} was made for another teacher (weights {named[:12]}, this teacher "
            f"{teacher.hash[:12]}, {teacher.checkpoint}); train prompts on this teacher"
        )
    made = checkpoint.get("meta")
    _check_use(path, made if isinstance(made, Mapping) else {}, use or {})
    return state


def _check_use(path: str, made: Mapping[str, Any], use: Mapping[str, Any]) -> None:
    """Raise CheckpointError where prompts were trained for another tap, levels or wavelet than they are used with."""
    wrong = [name for name in use if name in made and repr(made[name]) != repr(use[name])]
    if not wrong:
        return
    trained, used = (", ".join(f"{name}={which[name]!r}" for name in wrong) for which in (made, use))
    where = dict(tap="the term's teacher=", levels="the term's levels=")
    places = ", ".join(where.get(name, f"the loss's {name}=") for name in wrong)
    raise CheckpointError(
        f"prompt checkpoint {path} was trained with {trained}, but is used with {used}: these must agree; change {places}, "
        "or train prompts for this use (python tools/train.py PROMPT_CONFIG, with the same tap=, levels= and loss)"
    )
