"""Collect the metrics of runs of the demo, each made by `python tools/demo --seed N --work-dir work_dirs/demo_seedN`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results" / "demo_seeds.json"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folders", nargs="+", type=Path, help="work dirs of the runs, in the order of their seeds from 0 on"
    )
    runs = []
    for seed, folder in enumerate(parser.parse_args(arguments).folders):
        for task, stages in json.loads((folder / "summary.json").read_text()).items():
            for stage in ("alone", "distilled", "combined"):
                runs.append(dict(task=task, stage=stage, seed=seed, metric=stages[stage]["metric"]))
    RESULTS.write_text("[\n" + ",\n".join(json.dumps(run) for run in runs) + "\n]\n")
    print(f"written: {RESULTS}")


if __name__ == "__main__":
    sys.exit(main())
