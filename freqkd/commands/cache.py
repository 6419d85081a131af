"""Fill the cache of a config's teacher (`teacher=dict(..., cache=...)`) before the training, so that no step waits for it.

Run it again to continue after a stop; run it several times at once to fill faster.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from freqkd.apis.arguments import add_run_arguments, load_run_config
from freqkd.apis.cache import cache_teacher
from freqkd.utils.errors import EPILOG
from freqkd.utils.program import program


def main(arguments: Sequence[str] | None = None) -> None:
    """Fill the cache of the teacher of the config that the arguments name."""
    parser = argparse.ArgumentParser(prog=program("cache"), description=__doc__, epilog=EPILOG)
    parser.add_argument(
        "config", help="config of a training whose teacher has a cache: a distillation or a prompt stage"
    )
    add_run_arguments(parser)
    options = parser.parse_args(arguments)
    cache_teacher(load_run_config(options), options.trust_checkpoint)
