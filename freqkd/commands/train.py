"""Train a config: a teacher, a student alone, the prompts of a teacher, or a distillation."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from freqkd.apis.arguments import add_run_arguments, load_run_config
from freqkd.apis.mixed_precision import PRECISIONS, set_precision
from freqkd.apis.train import train
from freqkd.utils.errors import EPILOG
from freqkd.utils.program import program


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the config that the arguments name."""
    parser = argparse.ArgumentParser(prog=program("train"), description=__doc__, epilog=EPILOG)
    parser.add_argument("config", help="config file, or freqkd::NAME, mmdet::NAME, mmseg::NAME")
    parser.add_argument(
        "--amp",
        nargs="?",
        const=True,
        choices=PRECISIONS,
        help="mixed precision: MMEngine's choice, or the one that is named; on the CPU bfloat16 alone",
    )
    parser.add_argument("--auto-scale-lr", action="store_true", help="scale the learning rate with the batch size")
    parser.add_argument(
        "--resume", nargs="?", const="auto", metavar="PATH", help="resume PATH, or the newest of the work dir"
    )
    parser.add_argument(
        "--no-rehearsal", action="store_true", help="start without running the model on an image of the data first"
    )
    add_run_arguments(parser)
    options = parser.parse_args(arguments)
    config = load_run_config(options)
    if options.amp:
        set_precision(config, None if options.amp is True else options.amp)
    if options.auto_scale_lr:
        if not {"base_batch_size", "enable"} <= set(config.get("auto_scale_lr") or {}):
            raise ValueError(
                "--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=..., enable=...) in the config, with the batch size "
                "that its learning rate was chosen for"
            )
        config.auto_scale_lr.enable = True
    if options.resume:
        config.resume = True
        config.load_from = None if options.resume == "auto" else options.resume
    train(config, options.trust_checkpoint, rehearsal=not options.no_rehearsal)
