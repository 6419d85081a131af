"""Checks of what MMEngine's Runner builds from a config, before the Runner, which creates folders, is built."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import logging
import os
import typing
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import (
    DATA_SAMPLERS,
    EVALUATOR,
    FUNCTIONS,
    HOOKS,
    LOG_PROCESSORS,
    LOOPS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    RUNNERS,
    VISBACKENDS,
    VISUALIZERS,
    DefaultScope,
    Registry,
)
from mmengine.runner import Runner, get_priority
from torch import nn
from torch.utils.data import DataLoader

from freqkd.apis.preflight.datasets import LARGE, is_local
from freqkd.apis.preflight.hooks import hooks_of
from freqkd.models.options import check_options, unknown_type
from freqkd.utils.checks import check_at_least, check_choice
from freqkd.utils.errors import worded
from freqkd.utils.slots import check_names, check_slots, check_typed, refuse

_GIVEN = {  # options that the Runner adds to those of a slot
    "backend of a visualizer": ("save_dir",),
    "hook": ("priority",),
    "optimizer": ("params",),
    "loop": ("runner", "dataloader", "evaluator"),
    "sampler": ("dataset", "seed"),
    "batch sampler": ("sampler", "batch_size"),
    "param scheduler": ("optimizer", "epoch_length", "convert_to_iter_based"),
}
_TRIPLES = {
    "train": ("train_dataloader", "train_cfg", "optim_wrapper"),
    "val": ("val_dataloader", "val_cfg", "val_evaluator"),
    "test": ("test_dataloader", "test_cfg", "test_evaluator"),
}


def check_parts(config: Config, purpose: str) -> None:
    """Check that every part of a config that the Runner builds has a known type and known options, and that none is missing.

    Args:
        config: the config of a run.
        purpose: "train", "val" or "test".

    Raises:
        ValueError: the message names the slot.
    """
    check_slots(config)
    check_names(config)
    if "model" not in config:
        raise ValueError("the config must have a model, got none; is it a fragment, such as those in _base_?")
    for name, triple in _TRIPLES.items():
        given = [slot for slot in triple if config.get(slot) is not None]
        if len(given) not in (0, 3) or (name == purpose and not given):
            missing = [slot for slot in triple if slot not in given]
            raise ValueError(
                f"{', '.join(triple)} must be given together, and the config lacks {', '.join(missing)}; add "
                f"{'it' if len(missing) == 1 else 'them'}"
                + ("" if name == purpose else f", or set {', '.join(given)} to None")
            )
    if config.get("param_scheduler") is not None and config.get("optim_wrapper") is None:
        raise ValueError("param_scheduler must be None without an optim_wrapper; remove it, or add an optim_wrapper")
    with DefaultScope.overwrite_default_scope(config.get("default_scope")):
        _check_runtime(config)
        for slot in ("train", "val", "test"):
            if config.get(f"{slot}_cfg") is not None:
                _check_loop(f"{slot}_cfg", config[f"{slot}_cfg"])
                _check_loader(f"{slot}_dataloader", config[f"{slot}_dataloader"])
        if purpose != "train" and config.get("test_evaluator") is not None:
            _check_evaluator("test_evaluator", config["test_evaluator"])
        if purpose == "train" and config.get("val_evaluator") is not None:
            _check_evaluator("val_evaluator", config["val_evaluator"])


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Suppress output that the run will print again."""
    before, own = logging.root.manager.disable, MMLogger.get_current_instance()
    level = own.level
    logging.disable(logging.WARNING)
    own.setLevel(logging.ERROR)  # it remembers which levels are on, and misses `logging.disable`
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        own.setLevel(level)
        logging.disable(before)


def check_optimization(config: Config, model: nn.Module) -> Any:
    """Build the optimizer and the schedules of a model that is about to be trained; return the optimizer wrapper.

    Raises:
        ValueError: an unknown type or option, or a value that one of them refuses.
    """
    wrapper = config.get("optim_wrapper")
    if not isinstance(wrapper, Mapping):
        return wrapper
    with DefaultScope.overwrite_default_scope(config.get("default_scope")):
        if "constructor" not in wrapper:
            check_entry("optim_wrapper.optimizer", OPTIMIZERS, wrapper.get("optimizer"), "optimizer")
        with worded("optim_wrapper"), _quietly():
            optimizers = build_optim_wrapper(model, copy.deepcopy(wrapper))
        given = config.get("param_scheduler")
        if given is None or not hasattr(optimizers, "optimizer"):
            return optimizers
        for index, scheduler in enumerate(given if isinstance(given, (list, tuple)) else [given]):
            slot = f"param_scheduler[{index}]" if isinstance(given, (list, tuple)) else "param_scheduler"
            if not isinstance(scheduler, Mapping):
                continue
            check_entry(slot, PARAM_SCHEDULERS, scheduler, "param scheduler")
            options = {key: value for key, value in scheduler.items() if key != "convert_to_iter_based"}
            with worded(slot):
                PARAM_SCHEDULERS.build(options, default_args=dict(optimizer=optimizers))
    return optimizers


def check_entry(slot: str, registry: Registry, entry: Any, what: str = "", default: str | None = None) -> None:
    """Check that the type of an entry is registered and takes the entry's options, without building it.

    Raises:
        ValueError: an unknown type or option; the message names the most similar ones.
    """
    if not isinstance(entry, Mapping):
        return
    given = _GIVEN.get(what, ())
    name = entry.get("type", default)
    with worded(slot), registry.switch_scope_and_registry(entry.get("_scope_")) as scoped:
        kind = scoped.get(name) if isinstance(name, str) else name
    if kind is None:
        raise unknown_type(slot, str(name), registry, what)
    if inspect.isclass(kind) or inspect.isfunction(kind):
        taken = {option for option in given if option in inspect.signature(kind).parameters}
        options = {key for key in entry if key not in ("type", "_scope_")} - set(given) | taken
        check_options(f"{slot}=dict(type={getattr(name, '__name__', name)!r}, ...)", kind, sorted(options))
        if what == "hook":  # its numbers are first used after a part of the training
            _check_numbers(slot, kind, entry)


def _check_numbers(slot: str, kind: Any, entry: Mapping[str, Any]) -> None:
    """Check that options which a class annotates as numbers are not texts, lists or dicts."""
    try:
        hints = typing.get_type_hints(kind.__init__ if inspect.isclass(kind) else kind)
    except Exception:  # a name that its module imports for type checkers only
        return
    for name, value in entry.items():
        kinds = set(typing.get_args(hints.get(name)) or [hints.get(name)])
        if kinds <= {int, float, bool, type(None)} and name in hints and isinstance(value, (str, list, tuple, Mapping)):
            raise refuse(f"{slot}.{name}", "a number", value)


def _check_runtime(config: Config) -> None:
    for slot, hook in hooks_of(config):
        check_entry(slot, HOOKS, hook, "hook")
        if isinstance(hook, Mapping) and "priority" in hook:
            with worded(f"{slot}.priority"):
                get_priority(hook["priority"])
    if config.get("log_processor") is not None:
        check_entry("log_processor", LOG_PROCESSORS, config["log_processor"], default="LogProcessor")
    if config.get("visualizer") is not None:
        check_entry("visualizer", VISUALIZERS, config["visualizer"], default="Visualizer")
        backends = config["visualizer"].get("vis_backends") or []
        if not isinstance(backends, (list, tuple)):
            raise refuse("visualizer.vis_backends", "a list or None", backends)
        for index, backend in enumerate(backends):
            check_typed(f"visualizer.vis_backends[{index}]", backend, "dict(type='LocalVisBackend')")
            check_entry(f"visualizer.vis_backends[{index}]", VISBACKENDS, backend, "backend of a visualizer")
    if config.get("randomness") is not None:
        check_options("randomness", Runner.set_randomness, {*config["randomness"], "self"})
    if config.get("log_level") is not None:
        levels = [logging.getLevelName(level) for level in (10, 20, 30, 40, 50)]
        check_choice("log_level", config["log_level"], levels)
    if "runner_type" in config and RUNNERS.get(str(config["runner_type"])) is None:
        raise refuse("runner_type", "a registered Runner", config["runner_type"], "or leave it out for MMEngine's")


def _check_loop(slot: str, loop: Any) -> None:
    if not isinstance(loop, Mapping):
        return
    for name, least in (("val_interval", 1), ("val_begin", 0)):
        if name in loop:
            check_at_least(f"{slot}.{name}", loop[name], least, most=float("inf"))
    if "type" in loop:
        check_entry(slot, LOOPS, {key: value for key, value in loop.items() if key != "by_epoch"}, "loop")
        if "by_epoch" in loop:
            raise ValueError(f"{slot} must have a type or by_epoch, not both; remove one of them")
        return
    if slot != "train_cfg":
        check_entry(slot, LOOPS, loop, "loop", "ValLoop" if slot == "val_cfg" else "TestLoop")
        return
    if not isinstance(loop.get("by_epoch"), bool):
        raise refuse("train_cfg.by_epoch", "True or False (where train_cfg has no type)", loop.get("by_epoch"))
    kind = "EpochBasedTrainLoop" if loop["by_epoch"] else "IterBasedTrainLoop"
    check_entry(slot, LOOPS, {key: value for key, value in loop.items() if key != "by_epoch"}, "loop", kind)


def _check_loader(slot: str, loader: Any) -> None:
    """Check the samplers of a data loader, and build torch's `DataLoader` with its other options."""
    if not isinstance(loader, Mapping):
        return
    if loader.get("sampler") is None:
        raise ValueError(f"{slot}.sampler must be given, e.g. dict(type='DefaultSampler', shuffle=True), got none")
    check_entry(f"{slot}.sampler", DATA_SAMPLERS, loader["sampler"], "sampler")
    check_entry(f"{slot}.batch_sampler", DATA_SAMPLERS, loader.get("batch_sampler"), "batch sampler")
    collate = loader.get("collate_fn")
    if isinstance(collate, Mapping) and isinstance(collate.get("type"), str) and FUNCTIONS.get(collate["type"]) is None:
        raise refuse(f"{slot}.collate_fn.type", "a registered function, e.g. 'pseudo_collate'", collate["type"])
    built = ("dataset", "sampler", "batch_sampler", "collate_fn", "worker_init_fn")
    taken = ("num_batch_per_epoch", "disable_subprocess_warning", "_scope_")
    rest = {key: value for key, value in loader.items() if key not in (*built, *taken)}
    with worded(slot, built=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run will print them
        DataLoader([0], **rest)  # type: ignore[arg-type]


def _check_evaluator(slot: str, evaluator: Any) -> None:
    """Build the metrics, which read their annotation files."""
    if isinstance(evaluator, Evaluator):
        return
    metrics = evaluator if isinstance(evaluator, (list, tuple)) else [evaluator]
    for metric in metrics:
        if not isinstance(metric, Mapping):
            continue
        if not is_local(metric):  # its annotations are read when it is built
            return
        path = metric.get("ann_file")
        if path:
            if not os.path.isfile(str(path)):
                raise ValueError(
                    f"{slot}.ann_file not found, or not a file: {path}; name the annotation file of its data set"
                )
            if os.path.getsize(path) > LARGE:
                return
    built = copy.deepcopy(evaluator)
    with worded(slot), _quietly():
        if isinstance(built, Mapping) and "metrics" in built:
            EVALUATOR.build({"type": "Evaluator", **built})
        else:
            Evaluator(list(built) if isinstance(built, (list, tuple)) else built)  # type: ignore[arg-type]
