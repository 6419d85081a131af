"""`python -m freqkd check`: check an environment, and print the fix of every fault. `compare`: compare methods of a study."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from freqkd import __version__
from freqkd.utils import environment


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 without a fault, else 1 (2 for wrong arguments)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["compare"]:
        from freqkd.apis.arguments import run_tool
        from freqkd.studies.compare import main as compare

        return run_tool(compare, given[1:])
    parser = argparse.ArgumentParser(prog="python -m freqkd", description=__doc__)
    parser.add_argument("--version", action="version", version=f"freqkd {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="check this environment, and print the fix of every fault")
    folder = Path("work_dirs")
    check.add_argument("--work-dir", type=Path, default=folder, help="folder of the results (default: %(default)s)")
    commands.add_parser("compare", help="compare distillation methods with the student alone: compare --help")
    options = parser.parse_args(given)
    findings = environment.inspect(options.work_dir)
    for finding in findings:
        print(finding)
    faults = sum(finding.status == "fault" for finding in findings)
    print(f"{faults} fault{'s' * (faults > 1)} found, each with its fix." if faults else "No fault found.")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
