"""Export the student of a training, as `freqkd export` does."""

from __future__ import annotations

import sys

from freqkd.apis.arguments import run_tool
from freqkd.commands.export import main as main

if __name__ == "__main__":
    sys.exit(run_tool(main))
