"""Read checkpoints without running what they contain, load them strictly, name weights by a hash, write atomically."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from freqkd.files import write_whole

EXTRA_PREFIX = "distiller."
STATE = "freqkd"  # what a training checkpoint has beside MMEngine's: random states, hashes of teacher and prompts
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

    A config that the checkpoint carries in `meta['config']` is dropped: MMEngine would run it on resume.

    Args:
        path: a file, or an https address, which is downloaded once into torch's cache.
        trust: unpickle anything, which runs code from the file. For files from people you trust.

    Raises:
        CheckpointError: the file is missing, truncated, or holds something other than tensors and plain data; a tensor is
            not an ordinary dense one, or not finite.
    """
    name = str(path)
    if name.startswith(("http://", "https://")):
        name = _download(name)
    if not os.path.isfile(name):
        what = f"{name} is no regular file" if os.path.exists(name) else name
        raise CheckpointError(f"checkpoint not found: {what}; check the path, or train it first")
    if name.endswith(".safetensors"):
        loaded: Any = _read_safetensors(name)
    else:
        loaded = load_safely(name, name, trust)
    if not isinstance(loaded, dict):
        raise CheckpointError(f"checkpoint {name} must hold a dict of weights, got {type(loaded).__name__}")
    return check_content(loaded, name)


def load_safely(file: Any, source: str, trust: bool = False, load: Any = None, **options: Any) -> Any:
    """Call `torch.load`, by default for tensors and plain data only.

    Args:
        file: a path or an open file.
        source: what the message names.
        trust: unpickle anything, which runs code from the file.
        load: the function to call; None: `torch.load`.
        options: its further arguments; None for `map_location` stands for the CPU.

    Raises:
        CheckpointError: the file is damaged, or holds something other than tensors and plain data.
    """
    load = load or torch.load
    options["map_location"] = options.get("map_location") or "cpu"
    try:
        if trust:
            return load(file, **{**options, "weights_only": False})
        with torch.serialization.safe_globals(_allowed_globals()):
            return load(file, **{**options, "weights_only": True})
    except pickle.UnpicklingError as error:
        # torch wraps the reason in advice on how to switch its own protection off.
        text = " ".join(str(error).split())
        reason = text.rsplit("WeightsUnpickler error: ", 1)[-1].rsplit("from a trusted source. ", 1)[-1]
        reason = reason.split(" Please use")[0].split(" was not")[0].split(" Check the documentation")[0]
        raise CheckpointError(
            f"checkpoint {source} is damaged or holds more than tensors and plain data ({reason}); "
            "if you trust its author, add --trust-checkpoint"
        ) from None
    except ImportError as error:
        raise CheckpointError(f"reading {source} needs a package that is not installed: {error.name}") from None
    except PermissionError as error:
        raise CheckpointError(
            f"checkpoint {source} cannot be read ({error.strerror}); change its permissions"
        ) from None
    except Exception as error:  # whatever the bytes of another kind of file provoke
        raise CheckpointError(_damaged(source, error)) from None


def _read_safetensors(name: str) -> dict[str, Any]:
    try:
        from safetensors.torch import load_file

        return {"state_dict": load_file(name)}
    except ImportError as error:
        raise CheckpointError(f"reading {name} needs a package that is not installed: {error.name}") from None
    except Exception as error:
        raise CheckpointError(_damaged(name, error)) from None


def _damaged(source: str, error: Exception) -> str:
    reason = str(error).split(". ")[0].split("\n")[0]
    return f"checkpoint {source} is truncated or no checkpoint ({reason}); copy it again"


def check_content(loaded: dict[str, Any], source: str) -> dict[str, Any]:
    """Check what was read, and return it without the config that MMEngine would run.

    Raises:
        CheckpointError: the weights are no dict of tensors by name, or a tensor of the weights, their averages or the
            optimizer is sparse, quantized, complex, without storage, or not finite.
    """
    meta = loaded.get("meta")
    if isinstance(meta, dict):
        meta.pop("config", None)
    for part in ("state_dict", "ema_state_dict"):
        state = loaded.get(part, {})
        if not isinstance(state, Mapping):
            raise CheckpointError(
                f"checkpoint {source}: {part} must be a dict of tensors by name, got {type(state).__name__}; it is no "
                "checkpoint of MMEngine"
            )
        for key, value in state.items():
            if not isinstance(key, str):
                raise CheckpointError(f"checkpoint {source}: the keys of {part} must be names, got {key!r}")
            if value is not None and not isinstance(value, (Tensor, int, float, str, bytes, dict)):
                raise CheckpointError(
                    f"checkpoint {source}: {part}[{key!r}] must be a tensor, got {type(value).__name__}"
                )
    parts = ("state_dict", "ema_state_dict", "optimizer")
    checked = {part: loaded[part] for part in parts if part in loaded} if "state_dict" in loaded else loaded
    for name, tensor in _tensors(checked, ""):
        check_tensor(tensor, name, source)
    return loaded


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in nested dicts and lists, with their places."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _tensors(item, f"{name}[{index}]")


def check_tensor(tensor: Tensor, name: str, source: str) -> None:
    """Raise CheckpointError where a tensor is not an ordinary dense one, or holds numbers that are not finite."""
    if tensor.layout != torch.strided:
        kind = "a sparse tensor"
    elif tensor.is_quantized:
        kind = "a quantized tensor"
    elif tensor.is_meta:
        kind = "a tensor without values (device 'meta')"
    elif tensor.is_complex():
        kind = "a complex tensor"
    elif tensor.is_floating_point() and not _is_finite(tensor):
        kind = f"{int((~torch.isfinite(tensor.float())).sum())} of {tensor.numel()} numbers that are not finite"
    else:
        return
    raise CheckpointError(
        f"checkpoint {source}: {name} must be a dense tensor of finite numbers, got {kind}; the file is damaged, or "
        "from a training that diverged: name another"
    )


def _is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite: of a sum first, which takes a third of the time and can only err by overflow."""
    return bool(torch.isfinite(tensor.sum(dtype=torch.float64))) or bool(torch.isfinite(tensor.float()).all())


def _download(address: str) -> str:
    """Fetch an address into torch's cache and return the file's path, which names the whole address by a hash.

    >>> cached_name("https://a.org/x/net.pth") == cached_name("https://b.org/x/net.pth")
    False
    """
    folder = os.path.join(torch.hub.get_dir(), "checkpoints")
    target = os.path.join(folder, cached_name(address))
    if not os.path.isfile(target):
        os.makedirs(folder, exist_ok=True)
        try:
            torch.hub.download_url_to_file(address, target, progress=True)
        except OSError as error:
            raise CheckpointError(
                f"cannot download {address} ({error}); download it elsewhere and name the file: checkpoint=PATH"
            ) from None
    return target


def cached_name(address: str) -> str:
    """Return the name under which an address is kept: two addresses never share one.

    >>> cached_name("https://a.org/x/net.pth?version=2")
    'net-6016978967b6.pth'
    """
    base = os.path.basename(address.split("?")[0].split("#")[0]) or "checkpoint.pth"
    stem, end = os.path.splitext(base)
    return f"{stem}-{hashlib.sha256(address.encode()).hexdigest()[:12]}{end or '.pth'}"


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
        _retyped(own, weights),
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


def _retyped(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    """Word the tensors that hold whole numbers or truth values where the network has fractions."""
    return [
        f"{key}: {weights[key].dtype} in the file, {own[key].dtype} in the model"
        for key in sorted(set(own) & set(weights))
        if own[key].is_floating_point() and not weights[key].is_floating_point()
    ]


def _describe(missing: list[str], unknown: list[str], reshaped: list[str], retyped: list[str]) -> list[str]:
    faults = []
    if missing:
        faults.append(f"{len(missing)} missing, first {sorted(missing)[:3]}")
    if unknown:
        faults.append(f"{len(unknown)} unknown, first {sorted(unknown)[:3]}")
    if reshaped:
        faults.append(f"{len(reshaped)} of another shape, first {reshaped[0]}")
    if retyped:
        faults.append(f"{len(retyped)} of another kind of number, first {retyped[0]}")
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
    uncommon = _uncommon(set(own) - set(weights), set(weights) - set(own))
    faults = _describe(*uncommon, _reshaped(own, weights), _retyped(own, weights))
    if not faults or (not _retyped(own, weights) and _is_renamed(network, weights, checkpoint)):
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


def check_start(network: nn.Module, checkpoint: Mapping[str, Any], source: str) -> str:
    """Check that a training that starts from a checkpoint (`load_from`) takes something of it, and say what it leaves.

    MMEngine loads what fits and only warns, so that a training from a wrong file would start from random weights.

    Args:
        network: what is to be trained.
        checkpoint: what `read_checkpoint` returned.
        source: the checkpoint, as the message names it.

    Returns:
        What is left out, in words; nothing where all fits.

    Raises:
        CheckpointError: no tensor of the checkpoint fits.
    """
    weights, own = weights_of(checkpoint), network.state_dict()
    uncommon = _uncommon(set(own) - set(weights), set(weights) - set(own))
    faults = _describe(*uncommon, _reshaped(own, weights), _retyped(own, weights))
    fitting = sum(key in own and own[key].shape == value.shape for key, value in weights.items())
    if not fitting and not _is_renamed(network, weights, checkpoint):
        raise CheckpointError(
            f"load_from={source}: none of its {len(weights)} tensors fits the {type(network).__name__} of the config "
            f"({'; '.join(faults) or 'it holds none'}); name a checkpoint of this network, or leave out load_from"
        )
    return (
        f"load_from={source}: {fitting} of {len(own)} tensors are taken from it ({'; '.join(faults)})" if faults else ""
    )


def check_resumable(model: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Check that a checkpoint has what a training has beside the student's weights, and is of the same teacher and prompts.

    MMEngine loads what it finds and only warns about the rest, so training would go on with fresh aligns and prompts.

    Args:
        model: the model of the training, its teacher and prompts in place.
        checkpoint: what the training shall go on from.

    Raises:
        CheckpointError: prompts, aligns or measured shares are missing (the message lists the first of them), or teacher or
            prompts are others than before.
    """
    wanted = {key for key in model.state_dict() if key.startswith((EXTRA_PREFIX, "prompts.", "gates."))}
    missing = sorted(wanted - set(checkpoint.get("state_dict", {})))
    if missing:
        raise CheckpointError(
            f"cannot resume: the checkpoint lacks {len(missing)} tensors of this training, first {missing[:3]}; "
            "resume with the config that wrote it, or start anew from its weights with --cfg-options load_from=PATH"
        )
    before = checkpoint.get(STATE, {}).get("identity", {})
    identify: Any = getattr(model, "identity", dict)
    now: Mapping[str, str] = identify() if before else {}
    for part in now:
        if part in before and before[part] != now[part]:
            raise CheckpointError(
                f"cannot resume: {part} must be what the checkpoint was trained with, weights {before[part][:12]}, got "
                f"{now[part][:12]}; name the same file as before, or start anew from the student's weights with "
                "--cfg-options load_from=PATH"
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
    with write_whole(path) as file:
        torch.save(value, file)
