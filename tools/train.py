"""Train a config: a teacher, a student alone, the prompts of a teacher, or a distillation."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from freqkd.apis.arguments import add_run_arguments, load_run_config, run_tool
from freqkd.apis.train import train
from freqkd.utils.errors import EPILOG


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG)
    parser.add_argument("config", help="config file, or mmdet::NAME / mmseg::NAME")
    parser.add_argument("--amp", action="store_true", help="automatic mixed precision (needs an accelerator)")
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
        import torch

        if not torch.cuda.is_available():
            raise ValueError("--amp needs an accelerator, and torch finds none; leave it out on the CPU")
        config.optim_wrapper.type = "AmpOptimWrapper"
        config.optim_wrapper.setdefault("loss_scale", "dynamic")
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


if __name__ == "__main__":
    sys.exit(run_tool(main))
