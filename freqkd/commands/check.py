"""Check this environment, and print the fix of every fault."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from freqkd.utils import environment
from freqkd.utils.program import program


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what was found; return the exit code: 0 without a fault, else 1."""
    parser = argparse.ArgumentParser(prog=program("check"), description=__doc__)
    folder = Path("work_dirs")
    parser.add_argument("--work-dir", type=Path, default=folder, help="folder of the results (default: %(default)s)")
    findings = environment.inspect(parser.parse_args(arguments).work_dir)
    for finding in findings:
        print(finding)
    faults = sum(finding.status == "fault" for finding in findings)
    print(f"{faults} fault{'s' * (faults > 1)} found, each with its fix." if faults else "No fault found.")
    return 1 if faults else 0
