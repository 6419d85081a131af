"""Read checkpoints without running what they contain, load them strictly, name weights by a hash, write atomically."""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

EXTRA_PREFIX = "distiller."
# What a network may lack or have too much of and still be the one that was trained: counters of older torch versions, the
# normalisation that older versions of mmengine stored, and the averages that mmdet 2 kept beside the weights.
_COUNTER = "num_batches_tracked"
_NORMALIZATION = "data_preprocessor."
_AVERAGES = "ema_"


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, unsafe, or belongs to another network; the message says what to do."""


def _history_method(owner: Any, name: str) -> Any:
    """Stand in for the `getattr` that MMEngine's log buffers ask for, and for nothing else."""
    from mmengine.logging.history_buffer import HistoryBuffer

    if owner is not HistoryBuffer or name.startswith("_"):
        raise pickle.UnpicklingError(f"it asks for the attribute {name!r} of {owner!r}")
    return getattr(owner, name)


def _allowed_globals() -> list[Any]:
    """What a training checkpoint of MMEngine holds beside tensors: numpy scalars and its log buffers."""
    import numpy as np
    from mmengine.logging.history_buffer import HistoryBuffer

    core = np._core if hasattr(np, "_core") else np.core
    types = [type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "u4", "u8", "u1", "?")]
    getters = [(_history_method, f"{module}.getattr") for module in ("builtins", "__builtin__")]
    return [core.multiarray._reconstruct, core.multiarray.scalar, np.ndarray, np.dtype, HistoryBuffer, *types, *getters]


def read_checkpoint(path: str | os.PathLike[str], trust: bool = False) -> dict[str, Any]:
    """Read a checkpoint file or https address to the CPU; by default, tensors and plain data only.

    Args:
        path: a file, or an https address, which is downloaded once into torch's cache.
        trust: unpickle anything, which runs code from the file. For files from people you trust.

    Raises:
        CheckpointError: the file is missing, truncated, or holds something other than tensors and plain data.
    """
    name = str(path)
    if name.startswith(("http://", "https://")):
        name = _download(name)
    if not os.path.isfile(name):
        raise CheckpointError(f"checkpoint not found: {name}; check the path, or train it first")
    try:
        if name.endswith(".safetensors"):
            from safetensors.torch import load_file

            return {"state_dict": load_file(name)}
        if trust:
            loaded = torch.load(name, map_location="cpu", weights_only=False)
        else:
            with torch.serialization.safe_globals(_allowed_globals()):
                loaded = torch.load(name, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch wraps the reason in advice on how to switch its own protection off.
        text = " ".join(str(error).split())
        reason = text.rsplit("WeightsUnpickler error: ", 1)[-1].rsplit("from a trusted source. ", 1)[-1]
        reason = reason.split(" Please use")[0].split(" was not")[0].split(" Check the documentation")[0]
        raise CheckpointError(
            f"checkpoint {name} is damaged or holds more than tensors and plain data ({reason}); "
            "if you trust its author, add --trust-checkpoint"
        ) from None
    except ImportError as error:
        raise CheckpointError(f"reading {name} needs a package that is not installed: {error.name}") from None
    except Exception as error:  # whatever the bytes of another kind of file provoke
        reason = str(error).split(". ")[0].split("\n")[0]
        raise CheckpointError(f"checkpoint {name} is truncated or no checkpoint ({reason}); copy it again") from None
    if not isinstance(loaded, dict):
        raise CheckpointError(f"checkpoint {name} must hold a dict of weights, got {type(loaded).__name__}")
    return loaded


def _download(address: str) -> str:
    """Fetch an address into torch's cache and return the file's path."""
    folder = os.path.join(torch.hub.get_dir(), "checkpoints")
    target = os.path.join(folder, os.path.basename(address))
    if not os.path.isfile(target):
        os.makedirs(folder, exist_ok=True)
        try:
            torch.hub.download_url_to_file(address, target, progress=True)
        except OSError as error:
            raise CheckpointError(
                f"cannot download {address} ({error}); download it elsewhere and name the file: checkpoint=PATH"
            ) from None
    return target


def weights_of(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the student's weights in a checkpoint of either kind: a training checkpoint or a bare state dict."""
    state = checkpoint.get("state_dict", checkpoint)
    plain = {key.removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}
    return {key: value for key, value in plain.items() if not key.startswith(EXTRA_PREFIX)}


def load_strict(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Load weights that must match exactly.

    Raises:
        CheckpointError: keys or shapes differ; the message lists the first of them.
    """
    own = model.state_dict()
    counters = {key for key in own if key.endswith(_COUNTER)}
    faults = _describe(
        [key for key in own if key not in weights and key not in counters],
        [key for key in weights if key not in own],
        _reshaped(own, weights),
    )
    if faults:
        raise CheckpointError(
            f"checkpoint {source} is not of this architecture ({type(model).__name__}): {'; '.join(faults)}; "
            "name the config that it was trained with"
        )
    model.load_state_dict({**{key: own[key] for key in counters}, **weights}, strict=True)


def _reshaped(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    """Word the tensors of equal name that differ in shape."""
    return [
        f"{key}: {tuple(weights[key].shape)} in the file, {tuple(own[key].shape)} in the model"
        for key in sorted(set(own) & set(weights))
        if own[key].shape != weights[key].shape
    ]


def _describe(missing: list[str], unknown: list[str], reshaped: list[str]) -> list[str]:
    faults = []
    if missing:
        faults.append(f"{len(missing)} missing, first {sorted(missing)[:3]}")
    if unknown:
        faults.append(f"{len(unknown)} unknown, first {sorted(unknown)[:3]}")
    if reshaped:
        faults.append(f"{len(reshaped)} of another shape, first {reshaped[0]}")
    return faults


def check_fit(network: nn.Module, checkpoint: Mapping[str, Any], source: str, config: str) -> None:
    """Check that a checkpoint is one of this network: MMEngine loads what it finds and only warns about the rest.

    Args:
        network: what the config describes; its weights may change.
        checkpoint: what `read_checkpoint` returned; what a distillation keeps beside the student does not count.
        source: the checkpoint, as the message names it.
        config: the config, likewise.

    Raises:
        CheckpointError: keys or shapes differ; the message lists the first of them.
    """
    weights, own = weights_of(checkpoint), network.state_dict()
    faults = _describe(*_uncommon(set(own) - set(weights), set(weights) - set(own)), _reshaped(own, weights))
    if not faults or _is_renamed(network, weights, checkpoint):
        return
    raise CheckpointError(
        f"checkpoint {source} does not fit the {type(network).__name__} of {config}: {'; '.join(faults)}; name the config "
        "that it was trained with, or a checkpoint of a training with this config"
    )


def _uncommon(missing: Iterable[str], unknown: Iterable[str]) -> tuple[list[str], list[str]]:
    """Leave out keys that change nothing."""
    return (
        [key for key in missing if not key.endswith(_COUNTER) and not key.startswith(_NORMALIZATION)],
        [key for key in unknown if not key.startswith((_NORMALIZATION, _AVERAGES))],
    )


def _is_renamed(network: nn.Module, weights: Mapping[str, Tensor], checkpoint: Mapping[str, Any]) -> bool:
    """Whether the network loads these keys all the same: some modules know what older versions of them were called."""
    state: Any = OrderedDict(weights)
    # The versions of the modules that wrote it, by which they tell.
    state._metadata = getattr(checkpoint.get("state_dict", checkpoint), "_metadata", OrderedDict())
    try:
        return not any(_uncommon(*network.load_state_dict(state, strict=False)))
    except Exception:  # whatever a module makes of keys that are not its own
        return False


def check_inheritable(path: str, part: nn.Module, source: nn.Module, is_folded: bool = False) -> None:
    """Check that a part of the student can start from the teacher's weights.

    Args:
        path: where both stand, an entry of `inherit`.
        part: the student's.
        source: the teacher's.
        is_folded: whether the teacher's batch norms have become part of its convolutions.

    Raises:
        ValueError: keys or shapes differ; the message lists the first of them.
    """
    own, taught = ({key: tuple(value.shape) for key, value in one.state_dict().items()} for one in (part, source))
    differing = [key for key in {**own, **taught} if own.get(key) != taught.get(key)]
    if not differing:
        return
    first = "; ".join(
        f"{key}: {own.get(key, 'nothing')} in the student, {taught.get(key, 'nothing')} in the teacher"
        for key in differing[:3]
    )
    cure = f"take {path!r} out of inherit, or name a student whose {path!r} has the shapes of the teacher's"
    if is_folded:
        cure = f"leave out teacher.fuse_norm, which folds norms away, or {cure}"
    raise ValueError(
        f"inherit: {path!r} must have equal shapes in student and teacher, got {len(differing)} that differ, first {first}; "
        f"{cure}"
    )


def check_resumable(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Check that the state dict of a checkpoint has what a training has beside the student's weights.

    MMEngine loads what it finds and only warns about the rest, so training would go on with fresh aligns and prompts.

    Raises:
        CheckpointError: prompts, aligns or measured shares are missing; the message lists the first of them.
    """
    wanted = {key for key in model.state_dict() if key.startswith((EXTRA_PREFIX, "prompts.", "gates."))}
    missing = sorted(wanted - set(state))
    if missing:
        raise CheckpointError(
            f"cannot resume: the checkpoint lacks {len(missing)} tensors of this training, first {missing[:3]}; "
            "resume with the config that wrote it, or start anew from its weights with --cfg-options load_from=PATH"
        )


def hash_weights(weights: Mapping[str, Tensor]) -> str:
    """Return the sha256 over the sorted tensors as float32, whatever file or precision they were stored in.

    >>> hash_weights({"a": torch.ones(2)}) == hash_weights({"a": torch.ones(2).half()})
    True
    >>> hash_weights({"a": torch.ones(2)}) == hash_weights({"b": torch.ones(2)})
    False
    """
    digest = hashlib.sha256()
    for key in sorted(weights):
        if key.endswith(_COUNTER):
            continue
        tensor = weights[key].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{key}{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def write_atomic(value: Any, path: str | os.PathLike[str]) -> None:
    """Save with `torch.save` so that the file is either whole or absent."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    try:
        torch.save(value, name)
        os.chmod(name, 0o644)
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
