"""State dict of the distiller: the student's own keys, and everything else under `distiller.`."""

from __future__ import annotations

from typing import Any

from torch import nn

from freqkd.utils.checkpoints import EXTRA_PREFIX

STUDENT = "student."
_PREPROCESSOR = "data_preprocessor."
_SHARDED = "_fsdp_wrapped_module."  # what FullyShardedDataParallel puts before the names of the model inside it


def to_student_keys(module: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: Any) -> None:
    """Rename `student.*` to the student's own keys, in place and in order; a hook on the state dict.

    `FullyShardedDataParallel` then looks for the names of the modules: inside it, `CheckpointHook` renames what it returns.
    """
    if prefix.endswith(_SHARDED):
        return
    before = f"{prefix}{STUDENT}"
    for key in [key for key in state_dict if key.startswith(f"{prefix}{_PREPROCESSOR}")]:
        del state_dict[key]
    for key in [key for key in state_dict if key.startswith(before)]:
        state_dict[prefix + key[len(before) :]] = state_dict.pop(key)
    metadata = getattr(state_dict, "_metadata", {})
    for key in [key for key in metadata if key.startswith(before)]:
        metadata[prefix + key[len(before) :]] = metadata.pop(key)
    if before[:-1] in metadata:
        metadata[prefix[:-1]] = metadata.pop(before[:-1])
    # The student's keys first, as a reader of the file expects; the rest after them.
    for key in [key for key in state_dict if key.startswith(f"{prefix}{EXTRA_PREFIX}")]:
        state_dict[key] = state_dict.pop(key)


def from_student_keys(state_dict: dict[str, Any], prefix: str) -> None:
    """Rename the student's own keys, as they stand in a checkpoint, to `student.*`, in place."""
    metadata = getattr(state_dict, "_metadata", None) or {}
    if prefix[:-1] in metadata:
        metadata[f"{prefix}{STUDENT}"[:-1]] = metadata[prefix[:-1]]
    for table, root in ((state_dict, prefix), (metadata, prefix)):
        for key in [key for key in table if key.startswith(root)]:
            rest = key[len(root) :]
            if not rest or rest.startswith((EXTRA_PREFIX, STUDENT)) or rest in ("distiller", "student"):
                continue
            table[f"{root}{STUDENT}{rest}"] = table[key]
            if table is state_dict and not rest.startswith(_PREPROCESSOR):
                del table[key]
