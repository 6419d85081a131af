"""Types of the values of a config that every tool reads."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from mmengine.registry import MODELS
from mmengine.runner import FlexibleRunner, Runner

from freqkd.utils.checks import did_you_mean, is_slip

PLAIN = (bool, int, float, complex, str, bytes, list, tuple, set, frozenset, Mapping)
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
_DICTS = (
    *("train_cfg", "val_cfg", "test_cfg", "optim_wrapper", "env_cfg", "log_processor", "randomness", "visualizer"),
    *("auto_scale_lr", "custom_imports", "tta_model", "model_wrapper_cfg", "default_hooks"),
)
_LISTS = ("custom_hooks", "tta_pipeline", "vis_backends")
_TEXTS = ("default_scope", "work_dir", "load_from", "experiment_name", "launcher")
_DICTS_OR_LISTS = ("param_scheduler", "val_evaluator", "test_evaluator")

# What MMEngine's Runners read at the top of a config, beside their arguments.
_READ = (
    *("custom_imports", "model_wrapper_cfg", "runner_type", "sync_bn", "find_unused_parameters", "compile"),
    *(
        "activation_checkpointing",
        "efficient_conv_bn_eval",
        "tta_model",
        "tta_pipeline",
        "init_weights_for_test_or_val",
    ),
)


def describe(value: Any) -> str:
    """Return the `repr` of a value, shortened to 60 characters.

    >>> describe("neck"), len(describe(list(range(100))))
    ("'neck'", 60)
    """
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def refuse(slot: str, rule: str, value: Any, fix: str = "") -> ValueError:
    """Return the error of a slot: its name, the rule, the value, what to do."""
    return ValueError(f"{slot} must be {rule}, got {describe(value)}{f'; {fix}' if fix else ''}")


def _is_object(value: Any) -> bool:
    """Whether a value is an object that was built already, as configs made in a program may hold."""
    return value is not None and not isinstance(value, PLAIN)


def check_typed(slot: str, value: Any, example: str) -> None:
    """Raise ValueError unless a value is a dict with a `type`, or was built already.

    >>> check_typed("model", [1], "dict(type='RetinaNet', ...)")
    Traceback (most recent call last):
    ...
    ValueError: model must be a dict with a type, e.g. dict(type='RetinaNet', ...), got [1]
    """
    if _is_object(value):
        return
    kind = value.get("type") if isinstance(value, Mapping) else None
    if not isinstance(kind, str) and not callable(kind):
        raise refuse(slot, f"a dict with a type, e.g. {example}", value)


@lru_cache
def known_names() -> frozenset[str]:
    """Return the names that MMEngine's Runners read at the top of a config."""
    arguments = {*inspect.signature(Runner).parameters, *inspect.signature(FlexibleRunner).parameters} - {"cfg"}
    return frozenset({*arguments, *_READ})


def check_names(config: Mapping[str, Any]) -> None:
    """Check that no name at the top of a config is a slip of one that MMEngine's Runner reads; it would change nothing.

    Raises:
        ValueError: one is: one letter is missing, added, another, or changed with its neighbour. Names of one's own pass: those
            with digits, those that begin with another letter, those that differ by more, and imported modules; and what is like
            `model`, which is short, and a name like others.

    >>> check_names(dict(model=dict(), train_pipeline=[], data_root="data/", eval_cfg=None))
    >>> check_names(dict(trian_cfg=dict(max_epochs=2)))
    Traceback (most recent call last):
    ...
    ValueError: the config has trian_cfg, which nothing reads; did you mean 'train_cfg'? else name it otherwise
    """
    for name, value in config.items():
        if name in known_names() or not name.replace("_", "").isalpha() or _is_object(value):
            continue
        others = known_names() - {"model"}
        meant = [known for known in sorted(others) if known[0] == name[0] and is_slip(name, known)]
        if meant:
            raise ValueError(
                f"the config has {name}, which nothing reads; did you mean {meant[0]!r}? else name it otherwise"
            )


def check_changes(config: Mapping[str, Any], changes: Mapping[str, Any], slot: str = "--cfg-options") -> None:
    """Check that changes are of what a config has, or MMEngine's Runner reads.

    Args:
        config: before the changes.
        changes: values by dotted keys.
        slot: what names them, for the message.

    Raises:
        ValueError: one names something else at the top.

    >>> check_changes(dict(train_cfg=dict()), {"train_cfg.max_epochs": 2, "randomness.seed": 1})
    >>> check_changes(dict(train_cfg=dict()), {"trian_cfg.max_epochs": 2})
    Traceback (most recent call last):
    ...
    ValueError: --cfg-options: the config has no trian_cfg; did you mean 'train_cfg'?
    """
    known = {*config, *known_names()}
    for change in changes:
        name = change.split(".")[0]
        if name not in known:
            hint = did_you_mean(name, sorted(known)) or "; name what it has, or add it to the config"
            raise ValueError(f"{slot}: the config has no {name}{hint}")


def check_slots(config: Mapping[str, Any]) -> None:
    """Check the types of a config's values; missing ones are not checked.

    Raises:
        ValueError: a value of another type; the message names the slot.

    >>> check_slots(dict(model=None))
    Traceback (most recent call last):
    ...
    ValueError: model must be a dict with a type, e.g. dict(type='RetinaNet', ...), got None
    """
    if "model" in config:
        check_typed("model", config["model"], "dict(type='RetinaNet', ...)")
        _check_model(config["model"])
    for slot, kinds, rule in (
        *((slot, Mapping, "a dict or None") for slot in _DICTS),
        *((slot, (list, tuple), "a list or None") for slot in _LISTS),
        *((slot, str, "a text or None") for slot in _TEXTS),
        *((slot, (Mapping, list, tuple), "a dict, a list of dicts or None") for slot in _DICTS_OR_LISTS),
    ):
        value = config.get(slot)
        if value is not None and not _is_object(value) and not isinstance(value, kinds):  # type: ignore[arg-type]
            raise refuse(slot, rule, value)
    if config.get("default_scope"):
        _check_scope(config["default_scope"])
    for slot, value, example in _typed(config):
        check_typed(slot, value, example)
    for slot in LOADERS:
        if config.get(slot) is not None:
            _check_loader(slot, config[slot])


def _typed(config: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Yield the nested slots that are built by their type, their values, and an example of each."""
    for name, hook in (config.get("default_hooks") or {}).items():
        if hook is not None:
            yield f"default_hooks.{name}", hook, "dict(type='CheckpointHook', interval=1)"
    for index, hook in enumerate(list(config.get("custom_hooks") or [])):
        yield f"custom_hooks[{index}]", hook, "dict(type='EMAHook')"
    for slot in ("val_evaluator", "test_evaluator"):
        metrics = config.get(slot)
        if isinstance(metrics, Mapping) and "type" not in metrics and "metrics" in metrics:
            metrics = metrics["metrics"]  # an Evaluator's own config
        listed = isinstance(metrics, (list, tuple))
        for index, metric in enumerate(metrics if listed else [metrics]):  # type: ignore[arg-type]
            if metric is not None:
                yield f"{slot}[{index}]" if listed else slot, metric, "dict(type='CocoMetric', ...)"
    schedulers = config.get("param_scheduler")
    if isinstance(schedulers, (list, tuple)):
        for index, scheduler in enumerate(schedulers):
            yield f"param_scheduler[{index}]", scheduler, "dict(type='MultiStepLR', ...)"


def _check_model(model: Any) -> None:
    """Check the parts of a distiller's or prompt tuner's config that the tools read."""
    if not isinstance(model, Mapping) or not str(model.get("type")).startswith("freqkd."):
        return
    if "student" in model:
        check_typed("model.student", model["student"], "dict(type='RetinaNet', ...)")
    teacher = model.get("teacher", {})
    if not _is_object(teacher) and not isinstance(teacher, Mapping):
        raise refuse("model.teacher", "dict(config=..., checkpoint=...)", teacher)
    for slot, rule in (("cache", "dict(dir=..., views=...) or None"), ("cfg_options", "a dict or None")):
        value = teacher.get(slot) if isinstance(teacher, Mapping) else None
        if value is not None and not isinstance(value, Mapping):
            raise refuse(f"model.teacher.{slot}", rule, value)


def _check_scope(scope: str) -> None:
    """Check that a scope is an installed package or a registered scope."""
    known = {"mmengine", *MODELS.children}
    if scope not in known and (not scope.isidentifier() or importlib.util.find_spec(scope) is None):
        raise refuse("default_scope", f"an installed package, e.g. {', '.join(map(repr, sorted(known)))}", scope)


def _check_loader(slot: str, loader: Any) -> None:
    """Check the parts of a data loader's config that the tools read."""
    if _is_object(loader):
        return
    if not isinstance(loader, Mapping):
        raise refuse(slot, "a dict or None", loader)
    check_typed(f"{slot}.dataset", loader.get("dataset"), "dict(type='CocoDataset', ...)")
    for name, least in (("batch_size", 1), ("num_workers", 0)):
        count = loader.get(name, least)
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise refuse(f"{slot}.{name}", f"a whole number of at least {least}", count)
    for name in ("sampler", "batch_sampler", "collate_fn"):
        if loader.get(name) is not None:
            check_typed(f"{slot}.{name}", loader[name], "dict(type='DefaultSampler', shuffle=True)")
