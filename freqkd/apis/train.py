"""Training: checks before anything is written, the Runner, the run."""

from __future__ import annotations

import os.path as osp
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.registry import RUNNERS, DefaultScope
from mmengine.runner import Runner

from freqkd.apis import preflight
from freqkd.apis.export import is_distillation, student_config, write_config
from freqkd.hooks.distillation_log import DistillationLogHook
from freqkd.models.options import part_class
from freqkd.models.prompt_tuner import PromptTuner
from freqkd.models.schedule import check_length
from freqkd.utils.files import check_writable
from freqkd.utils.loading import guarded_loading
from freqkd.utils.processes import agreed, lost_processes_named, start_processes, without_devices

DEFAULT_HOOKS = ("runtime_info", "timer", "sampler_seed", "logger", "param_scheduler", "checkpoint")  # of MMEngine


def check_training(config: Config, trust: bool = False, rehearsal: bool = True) -> dict[str, Any]:
    """Check everything that a training needs before it writes anything; what one process finds stops all of them.

    Args:
        config: the config of a training.
        trust: read files that can run code.
        rehearsal: run the model on an image of the data, see `check_model`.

    Returns:
        The shapes of what is tapped, see `Distiller.rehearse`; empty where they are not known.
    """
    with agreed():
        check_writable("work dir", config.work_dir, "--work-dir")
        samples = preflight.check_data(config, trust=trust)
        preflight.check_parts(config, "train")
        check_length(config)
        preflight.check_cache(config)
        preflight.resolve_shared_classes(config, trust)
        shapes = preflight.check_model(config, preflight.check_checkpoint(config, trust), samples, rehearsal)
        preflight.check_initial_weights(config, trust)
        preflight.warn_of_frozen_parts(config)
    return shapes


def build_runner(config: Config) -> Runner:
    """Build the Runner of a config, of its `runner_type` where it names one.

    A hook of `default_hooks` that is None is left out. MMEngine allows that for its own six alone.
    """
    hooks = config.get("default_hooks") or {}
    for name in [name for name, hook in hooks.items() if hook is None and name not in DEFAULT_HOOKS]:
        del hooks[name]
    if config.get("launcher") not in (None, "none") and get_device() == "cpu":
        start_processes(config.launcher, config.get("env_cfg"))
        config = without_devices(config)
    return Runner.from_cfg(config) if "runner_type" not in config else RUNNERS.build(config)


def train(config: Config, trust: bool = False, rehearsal: bool = True) -> Runner:
    """Check and run a training; a distillation also writes `student_config.py` beside its checkpoints.

    Args:
        config: the config of a training.
        trust: read files that can run code.
        rehearsal: run the model on an image of the data before anything is written.
    """
    with guarded_loading(trust), lost_processes_named():
        shapes = check_training(config, trust, rehearsal)
        add_safeguards(config)
        runner = build_runner(config)
        runner.register_hook(DistillationLogHook(shapes))
        if is_distillation(config) and runner.rank == 0:
            write_config(student_config(config), osp.join(runner.work_dir, "student_config.py"))
        runner.train()
        return runner


def add_safeguards(config: Config) -> None:
    """Replace MMEngine's `CheckpointHook` by `freqkd.CheckpointHook`, and add hooks that a config lacks.

    These are `freqkd.NonFiniteHook`, and `freqkd.PromptFileHook` in a prompt stage, whose result is that file. With
    `compile=True` the former is left out: it would have the whole step compiled again and again.
    """
    hooks = config.setdefault("default_hooks", ConfigDict())
    checkpoint = hooks.setdefault("checkpoint", ConfigDict(type="CheckpointHook", interval=1))
    if checkpoint is not None and checkpoint.get("type") in ("CheckpointHook", "mmengine.CheckpointHook"):
        checkpoint.type = "freqkd.CheckpointHook"
    added = [] if config.get("compile") else ["NonFiniteHook"]
    with DefaultScope.overwrite_default_scope(config.get("default_scope")):
        kind = part_class("model", config.model)
    if isinstance(kind, type) and issubclass(kind, PromptTuner):
        added.append("PromptFileHook")
    there = [hook.get("type") if isinstance(hook, Mapping) else type(hook) for _, hook in preflight.hooks_of(config)]
    missing = [name for name in added if not any(name in str(one) for one in there)]
    config.custom_hooks = [
        *(config.get("custom_hooks") or []),
        *(ConfigDict(type=f"freqkd.{name}") for name in missing),
    ]
