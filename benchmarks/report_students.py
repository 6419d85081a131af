"""Tables of what students score."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from measure import load

from studies import STUDIES

UNIT = {"detection": "box AP", "segmentation": "mIoU"}
Runs = Sequence[dict[str, Any]]


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    first, *others = (f"| {' | '.join(map(str, line))} |" for line in (head, *rows))
    return "\n".join((first, "|" + "---|" * len(head), *others))


def metrics(runs: Runs) -> list[float]:
    """Return the metrics, an mIoU in percent as a fraction."""
    return [run["metric"] / (100 if run["metric"] > 1 else 1) for run in runs]


def mean_ratio(runs: Runs) -> str:
    found = [run["mean_ratio"] for run in runs if run.get("mean_ratio") is not None]
    return f"{statistics.mean(found):.2f}" if found else ""


COLUMNS: dict[str, Callable[[Runs], str]] = {
    "ratio asked for": lambda runs: f"{runs[0]['ratio']:g}" if runs[0].get("ratio") else "",
    "mean ratio": mean_ratio,
    "seconds, first seed": lambda runs: f"{runs[0]['seconds']:.0f}",
    "seconds, later seeds": lambda runs: f"{statistics.mean([run['seconds'] for run in runs[1:]]):.0f}",
    "late step, ms": lambda runs: f"{1e3 * statistics.median(run['late_step'] for run in runs):.0f}",
}


def study_table(study: str, *columns: str) -> str:
    """Return a study's table: a line for each variant and ratio, in the order of `studies.py`."""
    found: dict[tuple[str, int, float], list[dict[str, Any]]] = {}
    for run in load(f"study_{study}"):
        place = list(STUDIES[study].variants[run["task"]]).index(run["variant"])
        found.setdefault((run["task"], place, run.get("ratio") or 0.0), []).append(run)
    lines = []
    for (task, _, _), runs in sorted(found.items()):
        runs.sort(key=lambda run: run["seed"])
        values = metrics(runs)
        lines.append(
            (
                task,
                runs[0]["variant"],
                f"{statistics.mean(values):.3f} {UNIT[task]}",
                ", ".join(f"{value:.3f}" for value in values),
                *(COLUMNS[name](runs) for name in columns),
            )
        )
    judged = "held-out metric" if STUDIES[study].held_out else "`val` metric"
    return table(("sample", "student", f"{judged}, mean", "by seed", *columns), lines)
