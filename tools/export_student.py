"""Export the student of a training: student.pth and student_config.py, without anything of this package.

A backbone of freqkd.backbones still needs the package installed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from freqkd.apis.arguments import run_tool
from freqkd.apis.export import export_student
from freqkd.utils.compat import read_config
from freqkd.utils.errors import EPILOG


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG)
    parser.add_argument("config", help="config of the distillation")
    parser.add_argument("checkpoint", help="checkpoint of the distillation")
    parser.add_argument("--out-dir", required=True, help="folder for the two files")
    parser.add_argument("--half", action="store_true", help="store the weights in half precision")
    parser.add_argument("--trust-checkpoint", action="store_true", help="also load checkpoints that can run code")
    options = parser.parse_args(arguments)
    config = read_config(options.config)
    path = export_student(config, options.checkpoint, options.out_dir, options.half, options.trust_checkpoint)
    print(f"Wrote {path} ({path.stat().st_size / 1e6:.1f} MB) and {path.parent / 'student_config.py'}")


if __name__ == "__main__":
    sys.exit(run_tool(main))
