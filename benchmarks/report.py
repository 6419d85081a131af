"""Write docs/benchmarks.md from the files in benchmarks/results."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from report_students import cached_part, masks_part, seeds_part, terms_part, weights_part
from report_tables import load, table

ROOT = Path(__file__).resolve().parent.parent
PYRAMID = 256 * (100 * 168 + 50 * 84 + 25 * 42 + 13 * 21 + 7 * 11) * 4
# Passes over the pyramid that must go through memory; quarter-size maps are left out.
PASSES = {
    "MSE, compiled": (3, "read student and teacher, write the gradient"),
    "official, T = 6": (4, "masks: read the teacher; walk: read student and teacher, write the gradient"),
    "official, T = 6, compiled": (4, "the same"),
    "paper, T = 2": (8, "the same 4; relation, for each network: read to resize it back, read for the squares"),
}
# What, the row, the row it is compared with, the most its time may be of it.
TARGETS = (
    ("T = 6, compiled, against the released form", "released form, T = 6", "official, T = 6, compiled", 30.0),
    ("T = 2, compiled, against the released form", "released form, T = 2", "official, T = 2, compiled", 8.0),
    ("T = 6, eager, against the released form", "released form, T = 6", "official, T = 6", 10.0),
    ("T = 2, eager, against the released form", "released form, T = 2", "official, T = 2", 3.0),
    ("T = 6, compiled, contiguous maps", "released form, T = 6", "official, T = 6, compiled, contiguous", 6.0),
)
FULL = "teacher, training forward"
LIMITS = (
    ("against eager MSE, eager", "official, T = 6", "MSE", 5.0),
    ("against compiled MSE, compiled", "official, T = 6, compiled", "MSE, compiled", 3.0),
    ("against eager MSE, eager, contiguous maps", "official, T = 6, contiguous", "MSE, contiguous", 5.0),
    *(
        (f"{name}, T = 6 against T = 2{how}", f"{name}, T = 6{how}", f"{name}, T = 2{how}", 1.1)
        for name, how in (("official", ""), ("official", ", compiled"), ("paper", ""), ("paper without relation", ""))
    ),
)


def where(result: dict[str, Any]) -> str:
    """One line: command, date, machine."""
    machine = result["machine"]
    return (
        f"`{result['command']}`, {machine['date']}, {machine['processor']} ({machine['capability']}), "
        f"{machine['threads']} thread(s), torch {machine['torch']}, commit {result['commit']}."
    )


def contiguous(name: str) -> bool:
    """Whether a row has its maps contiguous."""
    return name.endswith("contiguous") or name.startswith("released")


def loss_part(result: dict[str, Any]) -> str:
    rows = result["rows"]
    released = rows["released form, T = 6"]["median"]
    lines = [
        (
            name,
            f"{row['median']:.1f}",
            f"{row['peak'] / 2**20:.0f}",
            f"{released / row['median']:.1f}",
            f"{row['median'] / rows['MSE, contiguous' if contiguous(name) else 'MSE']['median']:.2f}",
        )
        for name, row in rows.items()
    ]
    text = table(("loss", "ms", "peak MiB", "times faster than released, T = 6", "of eager MSE, same layout"), lines)
    goals = []
    for what, slow, fast, least in TARGETS:
        ratio = rows[slow]["median"] / rows[fast]["median"]
        goals.append((what, f"at least {least:g} times faster", f"{ratio:.1f}", "yes" if ratio >= least else "no"))
    for what, ours, other, most in LIMITS:
        ratio = rows[ours]["median"] / rows[other]["median"]
        goals.append((what, f"at most {most:g} times its time", f"{ratio:.2f}", "yes" if ratio <= most else "no"))
    peak = rows["official, T = 6, compiled"]["peak"] / rows["released form, T = 6"]["peak"]
    goals.append(
        (
            "peak memory, T = 6, compiled, against the released form",
            "at most 0.2",
            f"{peak:.2f}",
            "yes" if peak <= 0.2 else "no",
        )
    )
    for ours, other in (("official, T = 6", "MSE"), ("official, T = 6, compiled", "MSE, compiled")):
        peak = rows[ours]["peak"] / rows[other]["peak"]
        goals.append(
            (f"peak memory, {ours}, against {other}", "at most 2.5", f"{peak:.2f}", "yes" if peak <= 2.5 else "no")
        )
    return f"{text}\n\n{table(('goal', 'wanted', 'measured', 'reached'), goals)}"


def passes_part(result: dict[str, Any]) -> str:
    speed = result["machine"]["bandwidth"]
    lines = []
    for name, (passes, what) in PASSES.items():
        size, found = passes * PYRAMID, result["rows"][name]["median"]
        floor = 1e3 * size / speed["copy"]
        lines.append((name, passes, f"{size / 1e6:.0f}", f"{floor:.1f}", f"{found:.1f}", f"{found / floor:.1f}", what))
    head = ("loss", "passes", "MB", "floor, ms", "measured, ms", "measured / floor", "which passes")
    return (
        f"Reading runs at {speed['read'] / 1e9:.1f} GB/s here, copying at {speed['copy'] / 1e9:.1f} GB/s (reads and writes "
        "counted); the floor is the bytes at the speed of copying.\n\n" + table(head, lines)
    )


def scaling_part(result: dict[str, Any]) -> str:
    rows = result["rows"]
    text = table(
        ("case", "ms", "ns per position"),
        [(name, f"{row['median']:.1f}", f"{1e6 * row['median'] / row['positions']:.0f}") for name, row in rows.items()],
    )
    images = [row for name, row in rows.items() if name.startswith("image")]
    positions, times = ([row[key] for row in images] for key in ("positions", "median"))
    slope, call = statistics.linear_regression(positions, times)
    miss = max(abs((call + slope * count) / time - 1) for count, time in zip(positions, times))
    return (
        f"{text}\n\nThe line {call:.1f} ms + {1e6 * slope:.0f} ns per position fits the four images to {100 * miss:.0f} %. "
        "Its first number is Python and the dispatch of operations, once a call."
    )


def step_part(result: dict[str, Any]) -> str:
    lines = []
    for pair, rows in result["rows"].items():
        alone, look, ours, other = (
            rows[name]["median"] for name in ("student alone", "teacher to its tap", "distillation step", FULL)
        )
        full = ours - look + other
        lines.append(
            (
                pair,
                *(f"{value:.0f}" for value in (alone, look, ours)),
                f"{ours / (alone + look):.3f}",
                f"{other:.0f}",
                f"{100 * (1 - ours / full):.0f} %",
            )
        )
    head = (
        "pair",
        "student alone, ms",
        "teacher to its tap",
        "distillation step",
        "step / (student + teacher)",
        "teacher, training forward",
        "saved against a step with it",
    )
    cheaper = {name: "" for rows in result["rows"].values() for name in rows if name.startswith("teacher, ")}
    others = [
        (pair, *(f"{rows[name]['median']:.0f}" for name in ("teacher to its tap", *cheaper) if name != FULL))
        for pair, rows in result["rows"].items()
    ]
    names = ["as it is", *(name.removeprefix("teacher, ") for name in cheaper if name != FULL)]
    said = "The teacher to its tap, ms, with options of `teacher=dict(...)`:"
    return f"{table(head, lines)}\n\n{said}\n\n{table(('pair', *names), others)}"


def cached_step_part(result: dict[str, Any]) -> str:
    lines = []
    for task, rows in result["rows"].items():
        times = (f"{row['median']:.0f}" for row in rows.values())
        size = result["bytes"][task]
        ratios = (f"{ratio:.3f}" for ratio in result["ratios"][task].values())
        lines.append((task, *times, *ratios, f"{size['view'] / 1e3:.0f}"))
    (rows, *_), (ratios, *_) = result["rows"].values(), result["ratios"].values()
    return table(("sample", *(f"{name}, ms" for name in rows), *ratios, "kB for a view"), lines)


def build() -> str:
    """Return the page."""
    names = ("loss_speed", "scaling", "iteration_speed", "cached_step")
    loss, scaling, steps, cached = (load(f"{name}_cpu") for name in names)
    page = (ROOT / "benchmarks" / "page.md").read_text()
    parts = {
        "LOSS": f"{where(loss)}\n\n{loss_part(loss)}",
        "PASSES": passes_part(loss),
        "SCALING": f"{where(scaling)}\n\n{scaling_part(scaling)}",
        "STEP": f"{where(steps)}\n\n{step_part(steps)}",
        "CACHED": cached_part(),
        "CACHED STEP": f"{where(cached)}\n\n{cached_step_part(cached)}",
        "WEIGHTS": weights_part(),
        "MASKS": masks_part(),
        "SEEDS": seeds_part(),
        "LAUNCHES": table(("loss", "operations"), list(load("launches_cpu")["rows"].items())),
        "TERMS": terms_part(),
    }
    for name, text in parts.items():
        page = page.replace(f"<!-- {name} -->", text)
    return page


def main(arguments: Sequence[str] | None = None) -> None:
    argparse.ArgumentParser(description=__doc__).parse_args(arguments)
    (ROOT / "docs" / "benchmarks.md").write_text(build())
    print("written: docs/benchmarks.md")


if __name__ == "__main__":
    sys.exit(main())
