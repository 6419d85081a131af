"""The parts of docs/benchmarks.md that say what students score."""

from __future__ import annotations

import statistics
from typing import Any

from report_tables import load, table

STAGES = {
    ("detection", "alone"): "alone",
    ("detection", "distilled"): "FreeKD and MSE",
    ("detection", "combined"): "FreeKD, MSE and binary KD",
    ("segmentation", "alone"): "alone",
    ("segmentation", "distilled"): "FreeKD",
    ("segmentation", "combined"): "FreeKD and CWD",
}
WORDS = {
    "alone": "none: student alone",
    "mse": "MSE",
    "freekd_neck": "FreeKD",
    "freekd-mse": "FreeKD (share 1) and MSE",
    "freekd-mse+binary-kd_logits": "FreeKD (1), MSE and binary KD (0.5)",
}


def cached_part() -> str:
    lines = []
    for task, unit, scale in (("detection", "box AP", 1.0), ("segmentation", "mIoU", 0.01)):
        for column in ("alone", "uncached", "1", "4", "16"):
            runs = [run for run in load(f"cached_teacher_{task}") or [] if run["column"] == column]
            if not runs:
                continue
            runs.sort(key=lambda run: run["seed"])
            values = [run["metric"] * scale for run in runs]
            label = {"alone": "student alone", "uncached": "teacher runs"}.get(column, f"cached, K = {column}")
            seconds = [run["seconds"] for run in runs]
            lines.append(
                (
                    task,
                    label,
                    f"{statistics.mean(values):.3f} {unit} ({min(values):.3f} to {max(values):.3f}, {len(values)} seeds)",
                    f"{seconds[0]:.0f}",
                    f"{statistics.mean(seconds[1:]):.0f}" if len(seconds) > 1 else "",
                    f"{1e3 * statistics.median(run['late_step'] for run in runs):.0f}",
                )
            )
    head = ("sample", "teacher", "`val` metric", "seconds, first seed", "seconds, later seeds", "late step, ms")
    return table(head, lines)


def weights_part() -> str:
    lines = []
    for task, unit, scale in (("detection", "box AP", 1.0), ("segmentation", "mIoU", 0.01)):
        found: dict[tuple[str, float], list[dict[str, Any]]] = {}
        for run in load(f"weight_study_{task}") or []:
            found.setdefault((run["term"], run["share"]), []).append(run)
        for (term, share), runs in found.items():
            values = [run["metric"] * scale for run in sorted(runs, key=lambda run: run["seed"])]
            late = [run["mean_share"] for run in runs if run.get("mean_share") is not None]
            lines.append(
                (
                    task,
                    WORDS.get(term, term.split("_")[0]),
                    f"{share:g}" if late else "",
                    f"{statistics.mean(late):.1f}" if late else "",
                    f"{statistics.mean(values):.3f} {unit}",
                    ", ".join(f"{value:.3f}" for value in values),
                )
            )
    lines.sort(key=lambda line: (line[0], line[1], float(line[2] or 0)))
    return table(("sample", "terms", "share asked for", "mean share", "held-out metric", "by seed"), lines)


def masks_part() -> str:
    found: dict[str, list[dict[str, Any]]] = {}
    for run in load("mask_study"):
        found.setdefault(run["term"], []).append(run)
    lines = []
    for variant, runs in found.items():
        values = [run["metric"] for run in sorted(runs, key=lambda run: run["seed"])]
        each = ", ".join(f"{value:.3f}" for value in values)
        lines.append((variant, f"{statistics.mean(values):.3f} box AP", each))
    return table(("FreeKD", "held-out metric", "by seed"), lines)


def seeds_part() -> str:
    found: dict[tuple[str, str], list[float]] = {}
    for run in load("demo_seeds"):
        found.setdefault((run["task"], run["stage"]), []).append(run["metric"])
    units = dict(detection="box AP", segmentation="mIoU")
    lines = [
        (
            task,
            STAGES[task, stage],
            f"{statistics.mean(values):.3f} {units[task]}",
            ", ".join(f"{value:.3f}" for value in values),
        )
        for (task, stage), values in found.items()
    ]
    return table(("sample", "student", "`val` metric, mean", "by seed"), lines)


def terms_part() -> str:
    lines = []
    for task, unit, scale in (("detection", "box AP", 1.0), ("segmentation", "mIoU", 0.01)):
        found: dict[str, list[dict[str, Any]]] = {}
        for run in load(f"term_selection_{task}") or []:
            found.setdefault(run["term"], []).append(run)
        order = sorted(found.items(), key=lambda item: -statistics.mean(run["metric"] for run in item[1]))
        for term, runs in order:
            label = {"none": "none: FreeKD alone", "alone": "neither: student alone"}.get(term, term.split("_")[0])
            values = [run["metric"] * scale for run in runs]
            shares = [run["mean_share"] for run in runs if run.get("mean_share") is not None]
            lines.append(
                (
                    task,
                    label,
                    f"{statistics.mean(values):.3f} {unit}",
                    ", ".join(f"{value:.3f}" for value in values),
                    f"{statistics.mean(shares):.2f}" if shares else "",
                )
            )
    return table(("sample", "term beside FreeKD", "held-out metric", "by seed", "mean share"), lines)
