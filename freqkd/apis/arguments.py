"""Arguments of the command line tools, reading of the config that they name, and exit codes."""

from __future__ import annotations

import argparse
import os
import os.path as osp
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from mmengine.config import Config, DictAction

from freqkd.utils import errors
from freqkd.utils.compat import read_config
from freqkd.utils.loading import guarded_loading, trust_checkpoints
from freqkd.utils.processes import agreed, start_processes
from freqkd.utils.slots import check_changes, check_slots

LAUNCHERS = {  # the program of each launcher, and the environment variables that MMEngine reads
    "pytorch": ("torchrun", ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")),
    "slurm": ("srun", ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_NODELIST")),
    "mpi": ("mpirun", ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE")),
}


class KeyValueAction(DictAction):
    """MMEngine's `--cfg-options`, with an error that states the form."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        """Store the changes.

        Raises:
            ValueError: an entry is not of the form key=value.
        """
        for entry in values:
            if not entry.partition("=")[0] or "=" not in entry:
                raise ValueError(
                    f"{option_string} takes key=value, e.g. model.terms.loss_freekd.weight=2.0, got {entry!r}"
                )
        super().__call__(parser, namespace, values, option_string)


def add_run_arguments(parser: argparse.ArgumentParser, work_dir: str | None = None) -> None:
    """Add the arguments of every tool that runs a config, named as in mmdet and mmseg; the work dir may have a default."""
    default = work_dir or "work_dirs/NAME_OF_CONFIG"
    parser.add_argument("--work-dir", default=work_dir, help=f"folder for logs and checkpoints; default {default}")
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
    """Raise ValueError where the environment variables of a launcher are not set.

    >>> check_launcher("none")
    """
    program, variables = LAUNCHERS.get(launcher, ("", ()))
    missing = [name for name in variables if name not in os.environ]
    if missing:
        raise ValueError(
            f"--launcher {launcher} must be started by {program}, which sets {', '.join(variables)}: {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not set; for one process leave --launcher out"
        )


def load_run_config(options: argparse.Namespace) -> Config:
    """Read the config of a tool's arguments, and apply its options."""
    check_launcher(options.launcher)
    os.environ.setdefault("LOCAL_RANK", str(options.local_rank))
    trust_checkpoints(options.trust_checkpoint)
    config = Config()
    with agreed():
        try:
            config = read_config(options.config, "argument config")
            if options.cfg_options:
                check_changes(config, options.cfg_options)
                with errors.worded("--cfg-options"):
                    config.merge_from_dict(options.cfg_options)
                check_slots(config)
        finally:
            start_processes(options.launcher, config.get("env_cfg"))
    if not any("FasterCoco" in str(config.get(f"{split}_evaluator")) for split in ("val", "test")):
        # mmdet says so when it is imported, whether its metric is used or not.
        warnings.filterwarnings("ignore", "faster_coco_eval is not installed")
    config.launcher = options.launcher
    if options.work_dir:
        config.work_dir = options.work_dir
    elif not config.get("work_dir"):
        config.work_dir = osp.join("work_dirs", osp.splitext(osp.basename(str(options.config).split("::")[-1]))[0])
    if options.trust_checkpoint and "teacher" in config.get("model", {}):
        config.model.teacher.trust_checkpoint = True
    return config


def run_tool(main: Callable[[Sequence[str] | None], None], arguments: Sequence[str] | None = None) -> int:
    """Run a tool's main and return its exit code, see `errors.run_tool`; checkpoints run no code, see `guarded_loading`."""

    def guarded(arguments: Sequence[str] | None) -> None:
        with guarded_loading():
            main(arguments)

    return errors.run_tool(guarded, arguments)
