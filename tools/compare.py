"""Compare distillation methods with the student alone, as `freqkd compare` does."""

from __future__ import annotations

import sys

from freqkd.apis.arguments import run_tool
from freqkd.studies.compare import main as main

if __name__ == "__main__":
    sys.exit(run_tool(main))
