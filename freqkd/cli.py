"""What the command line tools share: arguments, reading a config, running it, and one clear message on wrong input."""

from __future__ import annotations

import argparse
import copy
import os
import os.path as osp
import time
from collections.abc import Callable, Sequence
from typing import Any

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.device import get_device
from mmengine.registry import DATASETS, MODELS, RUNNERS, DefaultScope
from mmengine.runner import Runner

from freqkd import errors
from freqkd.compat import read_config
from freqkd.data_checks import check_data
from freqkd.distillers.filling import fill_cache
from freqkd.distillers.schedules import check_length
from freqkd.export import is_distillation, student_config, write_config
from freqkd.loading import guarded_loading, trust_checkpoints
from freqkd.preflight import (
    check_cache,
    check_checkpoint,
    check_initial_weights,
    check_model,
    check_work_dir,
    find_fixed_views,
)
from freqkd.processes import agreed, lost_processes_named, start_processes, without_devices
from freqkd.runner_checks import check_parts
from freqkd.slots import check_slots

LAUNCHERS = {  # the program that starts the processes, and what MMEngine reads of its variables
    "pytorch": ("torchrun", ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")),
    "slurm": ("srun", ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_NODELIST")),
    "mpi": ("mpirun", ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE")),
}


class KeyValueAction(DictAction):
    """MMEngine's `--cfg-options`, which says what it takes."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        """Note the changes.

        Raises:
            ValueError: an entry is no key=value.
        """
        for word in values:
            if not word.partition("=")[0] or "=" not in word:
                raise ValueError(
                    f"{option_string} takes key=value, e.g. model.terms.loss_freekd.weight=2.0, got {word!r}"
                )
        super().__call__(parser, namespace, values, option_string)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every tool that runs a config takes, as mmdet and mmseg name it."""
    parser.add_argument("--work-dir", help="folder for logs and checkpoints; default work_dirs/NAME_OF_CONFIG")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=KeyValueAction,
        help="changes to the config: key=value, lists as key=[a,b] or key=a,b, nested keys as a.b.c=value",
    )
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none", help="job launcher")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument(
        "--trust-checkpoint", action="store_true", help="also load checkpoints that can run code; for files you trust"
    )


def check_launcher(launcher: str) -> None:
    """Raise ValueError where the launcher's own variables, which name a process, are not there.

    >>> check_launcher("none")
    """
    program, wanted = LAUNCHERS.get(launcher, ("", ()))
    lacking = [name for name in wanted if name not in os.environ]
    if lacking:
        raise ValueError(
            f"--launcher {launcher} must be started by {program}, which sets {', '.join(wanted)}: {', '.join(lacking)} "
            f"{'is' if len(lacking) == 1 else 'are'} not set; for one process leave --launcher out"
        )


def load_run_config(options: argparse.Namespace) -> Config:
    """Read the config a tool was called with and apply its options."""
    check_launcher(options.launcher)
    os.environ.setdefault("LOCAL_RANK", str(options.local_rank))
    trust_checkpoints(options.trust_checkpoint)
    config = Config()
    with agreed():
        try:
            config = read_config(options.config)
            if options.cfg_options:
                with errors.worded("--cfg-options"):
                    config.merge_from_dict(options.cfg_options)
                check_slots(config)
        finally:
            start_processes(options.launcher, config.get("env_cfg"))
    config.launcher = options.launcher
    if options.work_dir:
        config.work_dir = options.work_dir
    elif not config.get("work_dir"):
        config.work_dir = osp.join("work_dirs", osp.splitext(osp.basename(str(options.config).split("::")[-1]))[0])
    if options.trust_checkpoint and "teacher" in config.get("model", {}):
        config.model.teacher.trust_checkpoint = True
    return config


def check_training(config: Config, trust: bool = False) -> None:
    """Look at everything a training needs before it writes anything; every process learns what one of them finds."""
    with agreed():
        check_work_dir(config)
        samples = check_data(config, trust=trust)
        check_parts(config, "train")
        check_length(config)
        check_cache(config)
        check_model(config, check_checkpoint(config, trust), samples)
        check_initial_weights(config, trust)


def build_runner(config: Config) -> Runner:
    """Make the Runner of a config, of its own type where it names one."""
    if config.get("launcher") == "pytorch" and get_device() == "cpu":
        start_processes("pytorch")
        config = without_devices(config)
    return Runner.from_cfg(config) if "runner_type" not in config else RUNNERS.build(config)


def train(config: Config, trust: bool = False) -> Runner:
    """Check a training, run it, and leave the student's own config beside its checkpoints."""
    with guarded_loading(trust), lost_processes_named():
        check_training(config, trust)
        add_safeguards(config)
        runner = build_runner(config)
        if is_distillation(config) and runner.rank == 0:
            write_config(student_config(config), osp.join(runner.work_dir, "student_config.py"))
        runner.train()
        return runner


def add_safeguards(config: Config) -> None:
    """Put `freqkd.CheckpointHook` in the place of MMEngine's, and add `freqkd.NonFiniteHook`, in a config that chooses neither.

    A training whose whole step is compiled (`compile=True`) goes without the latter: it would be compiled anew over and over.
    """
    hooks = config.setdefault("default_hooks", ConfigDict())
    checkpoint = hooks.setdefault("checkpoint", ConfigDict(type="CheckpointHook", interval=1))
    if checkpoint is not None and checkpoint.get("type") in ("CheckpointHook", "mmengine.CheckpointHook"):
        checkpoint.type = "freqkd.CheckpointHook"
    others = list(config.get("custom_hooks") or [])
    if not config.get("compile") and not any("NonFiniteHook" in str(hook.get("type")) for hook in others):
        config.custom_hooks = [*others, ConfigDict(type="freqkd.NonFiniteHook")]


def cache_teacher(config: Config, trust: bool = False) -> int:
    """Fill the cache of a config's teacher with all views of its training data; returns how many the teacher ran for."""
    with agreed():
        check_data(config, ("train",), trust)
        check_parts(config, "train")
        check_cache(config)
    views = find_fixed_views(config)
    if views is None or not config.model.get("teacher", {}).get("cache"):
        raise ValueError(
            "the config must have a cached teacher, teacher=dict(..., cache=dict(dir=..., views=...)), and fixed views of its "
            "training data (freqkd.FixedViews)"
        )
    loader = config.train_dataloader
    with DefaultScope.overwrite_default_scope(config.get("default_scope")):
        check_model(config)
        model = MODELS.build(config.model).to(get_device())
        dataset = DATASETS.build(copy.deepcopy(views))
        return fill_cache(model, dataset, loader.batch_size, loader.get("num_workers", 0))


def evaluate(config: Config, checkpoint: str, work_dir: str) -> dict[str, float]:
    """Return the metrics of a checkpoint on the config's test split."""
    config = Config(copy.deepcopy(config.to_dict()))
    config.work_dir, config.load_from, config.resume = work_dir, checkpoint, False
    config.experiment_name = f"evaluate_{time.time_ns()}"
    with guarded_loading():
        return {key: float(value) for key, value in build_runner(config).test().items()}


def run_tool(main: Callable[[Sequence[str] | None], None], arguments: Sequence[str] | None = None) -> int:
    """Run a tool's main and return its exit code, see `errors.run_tool`; what it loads runs no code, see `guarded_loading`."""

    def guarded(arguments: Sequence[str] | None) -> None:
        with guarded_loading():
            main(arguments)

    return errors.run_tool(guarded, arguments)
