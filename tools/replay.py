"""Run a step that was not finite again, as `freqkd replay` does."""

from __future__ import annotations

import sys

from freqkd.apis.arguments import run_tool
from freqkd.commands.replay import main as main

if __name__ == "__main__":
    sys.exit(run_tool(main))
