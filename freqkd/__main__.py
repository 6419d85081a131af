"""`python -m freqkd`: check an environment, list what can be tapped, write or run a distillation, compare methods."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from freqkd import __version__
from freqkd.utils import environment

# Commands with arguments of their own: the module whose `main` takes them, and what it does.
COMMANDS = {
    "taps": ("freqkd.pairs.taps", "list what can be tapped in a network, with shapes and strides: taps --help"),
    "new-config": (
        "freqkd.pairs.new_config",
        "write the configs of a distillation for two networks: new-config --help",
    ),
    "distill": ("freqkd.pairs.distill", "write them, train, test and export in one go: distill --help"),
    "compare": ("freqkd.studies.compare", "compare distillation methods with the student alone: compare --help"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 without a fault, else 1 (2 for wrong arguments)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in COMMANDS:
        from freqkd.apis.arguments import run_tool

        return run_tool(importlib.import_module(COMMANDS[given[0]][0]).main, given[1:])
    parser = argparse.ArgumentParser(prog="python -m freqkd", description=__doc__)
    parser.add_argument("--version", action="version", version=f"freqkd {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="check this environment, and print the fix of every fault")
    folder = Path("work_dirs")
    check.add_argument("--work-dir", type=Path, default=folder, help="folder of the results (default: %(default)s)")
    for name, (_, words) in COMMANDS.items():
        commands.add_parser(name, help=words)
    options = parser.parse_args(given)
    findings = environment.inspect(options.work_dir)
    for finding in findings:
        print(finding)
    faults = sum(finding.status == "fault" for finding in findings)
    print(f"{faults} fault{'s' * (faults > 1)} found, each with its fix." if faults else "No fault found.")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
