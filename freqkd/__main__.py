"""Command line: `freqkd COMMAND`, or `python -m freqkd COMMAND`."""

from __future__ import annotations

import argparse
import difflib
import importlib
import sys
from collections.abc import Sequence

from freqkd import __version__
from freqkd.utils.program import program

# Name of each command: the module whose `main` takes its arguments, and what it does.
COMMANDS = {
    "check": ("freqkd.commands.check", "check this environment, and print the fix of every fault"),
    "taps": ("freqkd.pairs.taps", "list what can be tapped in a network, with shapes and strides"),
    "new-config": ("freqkd.pairs.new_config", "write the configs of a distillation for two networks"),
    "distill": ("freqkd.pairs.distill", "write them, train, test and export in one go"),
    "train": ("freqkd.commands.train", "train a config: a network, prompts, or a distillation"),
    "test": ("freqkd.commands.test", "evaluate a checkpoint of a student, without its teacher"),
    "masks": ("freqkd.commands.masks", "draw the masks that prompts make of validation images"),
    "export": ("freqkd.commands.export", "write the student's weights and config, without this package"),
    "cache": ("freqkd.commands.cache", "fill the cache of a teacher before the training"),
    "replay": ("freqkd.commands.replay", "run a training step that was not finite again"),
    "compare": ("freqkd.studies.compare", "compare distillation methods with the student alone"),
    "robustness": ("freqkd.commands.robustness", "compare networks on corrupted images"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 without a fault, see `errors.run_tool` for the others."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] not in COMMANDS:
        _refuse(given)
    command = importlib.import_module(COMMANDS[given[0]][0])
    if given[0] == "check":  # it must run where torch or mmengine cannot be imported
        return int(command.main(given[1:]))
    from freqkd.apis.arguments import run_tool

    return run_tool(command.main, given[1:])


def _refuse(given: list[str]) -> None:
    """Print the help or the version that was asked for, or what is wrong, and exit."""
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:<{width}}  {words}" for name, (_, words) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog=program(),
        description="Distil detectors and segmenters. COMMAND --help lists the arguments of a command.",
        epilog=f"commands:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"freqkd {__version__}")
    parser.add_argument("command", metavar="COMMAND", help="one of those below")
    command = parser.parse_known_args(given)[0].command
    near = difflib.get_close_matches(command, COMMANDS, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    parser.error(f"COMMAND must be one of {', '.join(COMMANDS)}, got {command!r}{hint}")


if __name__ == "__main__":
    sys.exit(main())
