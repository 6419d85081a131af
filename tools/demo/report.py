"""Report of the demo: the summary, the table, and checks of what it must show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tasks import MIN_DEVIATION, MIN_RATIO, TASKS, DemoError, say

from freqkd.utils.files import write_whole


def write_json(value: Any, path: Path) -> None:
    """Write strict json (no NaN), whole or not at all."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    with write_whole(path) as file:
        file.write(text.encode())


def check_shown(name: str, results: dict[str, Any]) -> None:
    """Raise DemoError where the prompts learnt nothing or FreeKD hardly counted."""
    before, after = results["prompts"]["masks"]["before"], results["prompts"]["masks"]["after"]
    if after["overlap"] >= before["overlap"]:
        raise DemoError(
            f"{name}: the overlap of the masks did not fall ({before['overlap']:.3f} to {after['overlap']:.3f})"
        )
    if after["deviation"] < MIN_DEVIATION:
        raise DemoError(f"{name}: the masks stayed flat (deviation over space {after['deviation']:.4f})")
    for stage, term in (("distilled", "loss_freekd"), ("combined", "loss_freekd"), ("combined", "loss_logit")):
        ratio = results[stage]["terms"][term]["gradient_ratio"]
        if ratio is None or ratio < MIN_RATIO:
            raise DemoError(
                f"{name}, {stage}: the gradient of {term} has a ratio of {ratio} to the task's, below {MIN_RATIO}: this shows "
                "another method"
            )


def table(summary: dict[str, Any]) -> str:
    """The comparison as text."""
    rows = []
    for name, task in TASKS.items():
        found = summary[name]
        labels = dict(teacher="teacher", prompts="teacher, masked", alone="student alone")
        labels["distilled"] = f"student, {task.feature_terms}"
        labels["combined"] = f"student, {task.feature_terms} + {task.logit_term}"
        for stage, label in labels.items():
            result = found[stage]
            time_spent = "shipped" if result["seconds"] is None else f"{result['seconds']:.0f} s"
            params = "" if stage == "prompts" else f"{result['params'] / 1e6:.2f} M"
            rows.append(
                (
                    name if stage == "teacher" else "",
                    label,
                    params,
                    f"{result['metric']:.3f} {task.metric_name}",
                    time_spent,
                )
            )
    head = ("task", "network", "params", "val metric", "training")
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in [head, *rows]]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def print_report(summary: dict[str, Any], root: Path, seconds: float) -> None:
    """Print the table, what it means, what the masks learnt, and how to use the students."""
    say()
    say(table(summary))
    say(
        "\nOne seed. Equal steps, images in the same order, equal first weights; equal steps are not equal time: see the "
        "last column.\nOther seeds give other numbers (--seed N --work-dir ...): one run does not prove a gain."
    )
    for name in TASKS:
        masks = summary[name]["prompts"]["masks"]
        ratio = summary[name]["distilled"]["terms"]["loss_freekd"]["gradient_ratio"]
        both = {key: term["gradient_ratio"] for key, term in summary[name]["combined"]["terms"].items()}
        before, after = masks["before"], masks["after"]
        say(
            f"{name}: overlap of the masks {before['overlap']:.3f} -> {after['overlap']:.3f}, deviation over space "
            f"{before['deviation']:.3f} -> {after['deviation']:.3f}; ratio of FreeKD's gradient to the task's {ratio:.2f}; "
            f"beside {TASKS[name].logit_term} {both['loss_freekd']:.2f} and {both['loss_logit']:.2f}"
        )
        for stage in ("alone", "distilled", "combined"):
            found = summary[name][stage]
            say(f"  {stage}: python tools/test.py {found['config']} {found['checkpoint']}")
    pictures = ", ".join(sorted(str(path) for path in root.glob("*.png")))
    say(f"Pictures: {pictures}\nNumbers: {root / 'summary.json'} ({seconds / 60:.1f} minutes this time)")
