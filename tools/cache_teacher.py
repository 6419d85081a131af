"""Fill the cache of a config's teacher (`teacher=dict(..., cache=...)`) before the training, so that no step waits for it.

Run it again to continue after a stop; run it several times at once to fill faster.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from freqkd.apis.arguments import add_run_arguments, load_run_config, run_tool
from freqkd.apis.cache import cache_teacher
from freqkd.utils.errors import EPILOG


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG)
    parser.add_argument(
        "config", help="config of a training whose teacher has a cache: a distillation or a prompt stage"
    )
    add_run_arguments(parser)
    options = parser.parse_args(arguments)
    cache_teacher(load_run_config(options), options.trust_checkpoint)


if __name__ == "__main__":
    sys.exit(run_tool(main))
