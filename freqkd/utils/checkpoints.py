"""Checkpoints: safe reading, strict loading, comparison with a network, hashes, atomic writing."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from freqkd.utils.files import write_whole
from freqkd.utils.paths import find_file, where_looked

EXTRA_PREFIX = "distiller."
STATE = "freqkd"  # key of a training checkpoint: random states, hashes of teacher and prompts
# Keys that may be missing or superfluous in a checkpoint: counters of older torch versions, the normalisation that older
# versions of mmengine stored, and the averages that mmdet 2 kept beside the weights.
_COUNTER = "num_batches_tracked"
_NORMALIZATION = "data_preprocessor."
_AVERAGES = "ema_"


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, unsafe, or belongs to another network; the message says what to do."""


def _history_method(owner: Any, name: str) -> Any:
    """Replace the `getattr` in pickles of MMEngine's log buffers, and of nothing else."""
    from mmengine.logging.history_buffer import HistoryBuffer

    if owner is not HistoryBuffer or name.startswith("_"):
        raise pickle.UnpicklingError(f"it asks for the attribute {name!r} of {owner!r}")
    return getattr(owner, name)


def _allowed_globals() -> list[Any]:
    """Return what torch may unpickle beside tensors: the numpy scalars and log buffers of MMEngine's checkpoints."""
    import numpy as np
    from mmengine.logging.history_buffer import HistoryBuffer

    core = np._core if hasattr(np, "_core") else np.core
    types = [type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "u4", "u8", "u1", "?")]
    getters = [(_history_method, f"{module}.getattr") for module in ("builtins", "__builtin__")]
    return [core.multiarray._reconstruct, core.multiarray.scalar, np.ndarray, np.dtype, HistoryBuffer, *types, *getters]


def read_checkpoint(path: str | os.PathLike[str], trust: bool = False) -> dict[str, Any]:
    """Read a checkpoint file or https address to the CPU, by default tensors and plain data only.

    The config in `meta['config']` is dropped: MMEngine would run it on resume.

    Args:
        path: a file, see `find_file`, or an https address, which is downloaded once into torch's cache.
        trust: unpickle anything, which runs code from the file; only for files from people you trust.

    Raises:
        CheckpointError: the file is missing, truncated, or holds something other than tensors and plain data; a tensor is
            not dense, or not finite.
    """
    name = str(path)
    if name.startswith(("http://", "https://")):
        name = _download(name)
    name = find_file(name)
    if not os.path.isfile(name):
        what = f"{name} is not a regular file" if os.path.exists(name) else name
        raise CheckpointError(f"checkpoint not found: {what}; check the path{where_looked(name)}, or train it first")
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
        source: the name in the message.
        trust: unpickle anything, which runs code from the file.
        load: the function to call; None: `torch.load`.
        options: its other arguments; `map_location=None` means the CPU.

    Raises:
        CheckpointError: the file is damaged, or holds something other than tensors and plain data.
    """
    load = load or getattr(torch.load, "__wrapped__", torch.load)
    options["map_location"] = options.get("map_location") or "cpu"
    try:
        if trust:
            return load(file, **{**options, "weights_only": False})
        with torch.serialization.safe_globals(_allowed_globals()):
            return load(file, **{**options, "weights_only": True})
    except pickle.UnpicklingError as error:
        # The reason without torch's advice on how to switch off its protection.
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
    except Exception as error:  # any kind: the bytes are arbitrary
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
    return f"checkpoint {source} is truncated or not a checkpoint ({reason}); copy it again"


def check_content(loaded: dict[str, Any], source: str) -> dict[str, Any]:
    """Check what was read from a checkpoint, and return it as MMEngine's are, without the config that MMEngine would run.

    Raises:
        CheckpointError: the weights are not a dict of tensors by name, or a tensor of the weights, their averages or the
            optimizer is sparse, quantized, complex, without storage, or not finite.
    """
    loaded = with_state_dict(loaded)
    meta = loaded.get("meta")
    if isinstance(meta, dict):
        meta.pop("config", None)
    for part in ("state_dict", "ema_state_dict"):
        state = loaded.get(part, {})
        if not isinstance(state, Mapping):
            raise CheckpointError(
                f"checkpoint {source}: {part} must be a dict of tensors by name, got {type(state).__name__}; it is not "
                "a checkpoint of MMEngine"
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
    """Yield the tensors in nested dicts and lists by name."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _tensors(item, f"{name}[{index}]")


def check_tensor(tensor: Tensor, name: str, source: str) -> None:
    """Raise CheckpointError where a tensor is not dense, real and finite."""
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
        "from a training that diverged; name another"
    )


def _is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite: by their sum first, which takes a third of the time and can only overflow."""
    return bool(torch.isfinite(tensor.sum(dtype=torch.float64))) or bool(torch.isfinite(tensor.float()).all())


def _download(address: str) -> str:
    """Download an address into torch's cache and return the file's path."""
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
    """Return the file name of an address in the cache, with a hash of the whole address.

    >>> cached_name("https://a.org/x/net.pth?version=2")
    'net-6016978967b6.pth'
    >>> cached_name("https://a.org/x/net.pth") == cached_name("https://b.org/x/net.pth")
    False
    """
    base = os.path.basename(address.split("?")[0].split("#")[0]) or "checkpoint.pth"
    stem, end = os.path.splitext(base)
    return f"{stem}-{hashlib.sha256(address.encode()).hexdigest()[:12]}{end or '.pth'}"


def weights_of(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the student's weights of a training checkpoint or a bare state dict."""
    state = checkpoint.get("state_dict", checkpoint)
    plain = {key.removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}
    return {key: value for key, value in plain.items() if not key.startswith(EXTRA_PREFIX)}


def classes_of(checkpoint: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the names of the classes that a checkpoint of mmengine (`dataset_meta`) or of mmdet 2 (`CLASSES`) was trained on.

    None where it does not say.

    >>> classes_of(dict(meta=dict(dataset_meta=dict(classes=("cat", "dog")))))
    ('cat', 'dog')
    >>> classes_of(dict(meta=dict(CLASSES=["cat"]))), classes_of(dict(state_dict={}))
    (('cat',), None)
    """
    meta = checkpoint.get("meta")
    if not isinstance(meta, Mapping):
        return None
    described = meta.get("dataset_meta")
    known = {str(key).lower(): value for key, value in (described if isinstance(described, Mapping) else meta).items()}
    names = known.get("classes")
    if not isinstance(names, (list, tuple)) or not names or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names)


def with_state_dict(loaded: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint of another toolkit, whose weights have a key of their own, as MMEngine's are.

    Where there is no "state_dict" and no tensor, the one dict of tensors is taken for it.

    >>> with_state_dict(dict(model=dict(weight=torch.ones(1)), epoch=3))
    {'epoch': 3, 'state_dict': {'weight': tensor([1.])}}
    """
    if "state_dict" in loaded or any(isinstance(value, Tensor) for value in loaded.values()):
        return loaded
    inner = {
        key: value
        for key, value in loaded.items()
        if isinstance(value, dict) and any(isinstance(part, Tensor) for part in value.values())
    }
    if len(inner) != 1:
        return loaded
    ((key, state),) = inner.items()
    return {name: value for name, value in loaded.items() if name != key} | dict(state_dict=state)


def load_network(network: nn.Module, checkpoint: Mapping[str, Any], source: str) -> str:
    """Load a trained network by the one rule of all that read published files; see `check_fit`.

    Counters of batch norms and `data_preprocessor.*` may be missing. `data_preprocessor.*`, and the `ema_*` buffers of mmdet 2,
    may be left over. Names that modules change on loading are followed. All else must fit.

    Args:
        network: built from the config; its weights change.
        checkpoint: what `read_checkpoint` returned.
        source: the checkpoint's name in messages.

    Returns:
        A sentence about what of the file is not used; empty where everything is.

    Raises:
        CheckpointError: keys or shapes differ; the message lists the first of them.
    """
    if found := _misfit(network, checkpoint):
        raise CheckpointError(
            f"checkpoint {source} is not of this architecture ({type(network).__name__}): {'; '.join(found)}; "
            "name the config that it was trained with"
        )
    weights, own = weights_of(checkpoint), network.state_dict()
    if not _differences(own, weights):  # else names were changed, and it is loaded
        network.load_state_dict(weights, strict=False)
    unused = sorted(key for key in weights if key not in own and key.startswith((_NORMALIZATION, _AVERAGES)))
    return f"checkpoint {source}: {len(unused)} tensors are not used, first {unused[:2]}" if unused else ""


def load_strict(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Load weights into a model, which must have the same keys and shapes.

    Raises:
        CheckpointError: keys or shapes differ; the message lists the first of them.
    """
    own = model.state_dict()
    if found := _differences(own, weights, strict=True):
        raise CheckpointError(
            f"checkpoint {source} is not of this architecture ({type(model).__name__}): {'; '.join(found)}; "
            "name the config that it was trained with"
        )
    model.load_state_dict({**{key: own[key] for key in own if key.endswith(_COUNTER)}, **weights}, strict=True)


def _differences(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], strict: bool = False) -> list[str]:
    """Describe the keys, shapes and kinds of numbers in which a file's weights differ from a network's."""
    missing = sorted(key for key in own if key not in weights and not key.endswith(_COUNTER))
    unknown = sorted(key for key in weights if key not in own)
    if not strict:
        missing, unknown = _relevant(missing, unknown)
    both = sorted(set(own) & set(weights))
    shapes = [
        f"{key}: {tuple(weights[key].shape)} in the file, {tuple(own[key].shape)} in the model"
        for key in both
        if own[key].shape != weights[key].shape
    ]
    kinds = [
        f"{key}: {weights[key].dtype} in the file, {own[key].dtype} in the model"
        for key in both
        if _is_retyped(weights[key], own[key])
    ]
    found: list[tuple[list[str], str, object]] = [(missing, "missing", missing[:3]), (unknown, "unknown", unknown[:3])]
    found += [
        (shapes, "of another shape", "".join(shapes[:1])),
        (kinds, "of another kind of number", "".join(kinds[:1])),
    ]
    return [f"{len(keys)} {what}, first {first}" for keys, what, first in found if keys]


def _is_retyped(new: Tensor, old: Tensor) -> bool:
    """Whether a file has integers or booleans where the network has floating point numbers."""
    return old.is_floating_point() and not new.is_floating_point()


def check_fit(network: nn.Module, checkpoint: Mapping[str, Any], source: str, config: str) -> None:
    """Check that a checkpoint is one of this network: MMEngine loads what fits and only warns about the rest.

    Args:
        network: the network of the config; its weights may change.
        checkpoint: what `read_checkpoint` returned; keys of a distillation beside the student's are ignored.
        source: the checkpoint's name in the message.
        config: the config's name in the message.

    Raises:
        CheckpointError: keys or shapes differ; the message lists the first of them.
    """
    if found := _misfit(network, checkpoint):
        raise CheckpointError(
            f"checkpoint {source} does not fit the {type(network).__name__} of {config}: {'; '.join(found)}; name the "
            "config that it was trained with, or a checkpoint of a training with this config"
        )


def _misfit(network: nn.Module, checkpoint: Mapping[str, Any]) -> list[str]:
    """Describe in what a checkpoint is not one of this network; a network that changes names on loading loads it."""
    weights, own = weights_of(checkpoint), network.state_dict()
    found = _differences(own, weights)
    retyped = any(_is_retyped(weights[key], own[key]) for key in set(own) & set(weights))
    return found if found and (retyped or not _is_renamed(network, weights, checkpoint)) else []


def _relevant(missing: Iterable[str], unknown: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the missing and unknown keys without those that change nothing."""
    return (
        [key for key in missing if not key.endswith(_COUNTER) and not key.startswith(_NORMALIZATION)],
        [key for key in unknown if not key.startswith((_NORMALIZATION, _AVERAGES))],
    )


def _is_renamed(network: nn.Module, weights: Mapping[str, Tensor], checkpoint: Mapping[str, Any]) -> bool:
    """Whether the network loads these keys all the same: some modules rename the keys of their older versions."""
    state: Any = OrderedDict(weights)
    # The versions of the modules that wrote it, which they compare.
    state._metadata = getattr(checkpoint.get("state_dict", checkpoint), "_metadata", OrderedDict())
    try:
        return not any(_relevant(*network.load_state_dict(state, strict=False)))
    except Exception:  # any kind: modules handle foreign keys in their own ways
        return False


def check_inheritable(path: str, part: nn.Module, source: nn.Module, is_folded: bool = False) -> None:
    """Check that a part of the student can start from the teacher's weights.

    Args:
        path: the path of both parts, an entry of `inherit`.
        part: the student's part.
        source: the teacher's part.
        is_folded: whether the teacher's batch norms are folded into its convolutions.

    Raises:
        ValueError: keys or shapes differ; the message lists the first of them.
    """
    student, teacher = ({key: tuple(value.shape) for key, value in one.state_dict().items()} for one in (part, source))
    differing = [key for key in {**student, **teacher} if student.get(key) != teacher.get(key)]
    if not differing:
        return
    first = "; ".join(
        f"{key}: {student.get(key, 'nothing')} in the student, {teacher.get(key, 'nothing')} in the teacher"
        for key in differing[:3]
    )
    fix = f"take {path!r} out of inherit, or name a student whose {path!r} has the shapes of the teacher's"
    if is_folded:
        fix = f"leave out teacher.fuse_norm, which removes the norms, or {fix}"
    raise ValueError(
        f"inherit: {path!r} must have equal shapes in student and teacher, got {len(differing)} that differ, first {first}; "
        f"{fix}"
    )


def check_start(network: nn.Module, checkpoint: Mapping[str, Any], source: str) -> str:
    """Check that a checkpoint to start from (`load_from`) has tensors of the network.

    MMEngine loads what fits and only warns, so that a training from a wrong file would start from random weights.

    Args:
        network: the network to train.
        checkpoint: what `read_checkpoint` returned.
        source: the checkpoint's name in the message.

    Returns:
        A message about what is not loaded; empty where everything is.

    Raises:
        CheckpointError: no tensor of the checkpoint fits.
    """
    weights, own = weights_of(checkpoint), network.state_dict()
    found = "; ".join(_differences(own, weights))
    fitting = sum(key in own and own[key].shape == value.shape for key, value in weights.items())
    if not fitting and not _is_renamed(network, weights, checkpoint):
        raise CheckpointError(
            f"load_from={source}: none of its {len(weights)} tensors fits the {type(network).__name__} of the config "
            f"({found or 'it holds none'}); name a checkpoint of this network, or leave out load_from"
        )
    return f"load_from={source}: {fitting} of {len(own)} tensors are loaded from it ({found})" if found else ""


def check_resumable(model: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Check that a checkpoint to resume from has all tensors of the training, and the same teacher and prompts.

    MMEngine loads what fits and only warns, so that a training would continue with new aligns and prompts.

    Args:
        model: the model of the training, with its teacher and prompts.
        checkpoint: the checkpoint to resume from.

    Raises:
        CheckpointError: prompts, aligns or measured ratios are missing (the message lists the first of them), or teacher or
            prompts differ.
    """
    wanted = {key for key in model.state_dict() if key.startswith((EXTRA_PREFIX, "prompts.", "gates.", "band_"))}
    missing = sorted(wanted - set(checkpoint.get("state_dict", {})))
    if missing:
        raise CheckpointError(
            f"cannot resume: the checkpoint lacks {len(missing)} tensors of this training, first {missing[:3]}; "
            "resume with the config that wrote it, or start again from its weights with --cfg-options load_from=PATH"
        )
    before = checkpoint.get(STATE, {}).get("identity", {})
    identify: Any = getattr(model, "identity", dict)
    now: Mapping[str, str] = identify() if before else {}
    for part in now:
        if part in before and before[part] != now[part]:
            raise CheckpointError(
                f"cannot resume: {part} must be what the checkpoint was trained with, weights {before[part][:12]}, got "
                f"{now[part][:12]}; name the same file as before, or start again from the student's weights with "
                "--cfg-options load_from=PATH"
            )


def hash_weights(weights: Mapping[str, Tensor]) -> str:
    """Return the sha256 of the sorted tensors as float32, the same for every file and precision they are stored in.

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
    """Save with `torch.save`, whole or not at all."""
    with write_whole(path) as file:
        torch.save(value, file)
