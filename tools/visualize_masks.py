"""Draw the masks of frequency prompts, as `freqkd masks` does."""

from __future__ import annotations

import sys

from freqkd.apis.arguments import run_tool
from freqkd.commands.masks import main as main

if __name__ == "__main__":
    sys.exit(run_tool(main))
