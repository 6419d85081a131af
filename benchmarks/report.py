"""Write docs/benchmarks.md from `benchmarks/page.md` and the files in `benchmarks/results`."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from measure import CHANNELS, ROOT, SIZES, load

Rows = Mapping[str, Mapping[str, float]]
RELEASED, OFFICIAL, PAPER = "released form, T = 6", "FreeKD official, T = 6", "FreeKD paper, T = 2"
STEP, PLAIN_STEP = "distillation step", "distillation step (plain)"
TAP, FULL = "teacher to its tap", "teacher, training forward"
CACHED, PLAIN_CACHED = "teacher cached", "teacher cached (plain)"
# Passes over the pyramid that must go through memory; quarter-size maps are left out.
PASSES = {
    "MSE, compiled": (3, "read student and teacher, write the gradient"),
    OFFICIAL: (4, "masks: read the teacher; loss: read student and teacher, write the gradient"),
    PAPER: (8, "the same 4; relation, for each network: read to resize it back, read for the squares"),
}
# The row, what it is compared with, the quantity, and its largest ratio; "faster": the smallest ratio the other way round.
GOALS = (
    (OFFICIAL, RELEASED, "faster", 30),
    ("FreeKD official, T = 2", "released form, T = 2", "faster", 8),
    (f"{OFFICIAL}, contiguous", RELEASED, "faster", 6),
    (OFFICIAL, "MSE", "median", 5),
    (OFFICIAL, "MSE, compiled", "median", 3),
    (f"{OFFICIAL}, contiguous", "MSE, contiguous", "median", 5),
    ("FreeKD details", "MSE", "median", 2),
    (OFFICIAL, "FreeKD official, T = 2", "median", 1.1),
    ("FreeKD paper, T = 6", PAPER, "median", 1.1),
    ("FreeKD paper without relation, T = 6", "FreeKD paper without relation, T = 2", "median", 1.1),
    (OFFICIAL, RELEASED, "peak", 0.2),
    (OFFICIAL, "MSE", "peak", 2.5),
)
WANTED = {
    "faster": "at least {:g} times faster",
    "median": "at most {:g} times its time",
    "peak": "at most {:g} of its peak",
}


def where(result: Mapping[str, Any]) -> str:
    """Return one line: command, date, machine."""
    machine = result["machine"]
    return (
        f"`{result['command']}`, {machine['date']}, {machine['processor']} ({machine['capability']}), "
        f"{machine['threads']} thread(s), torch {machine['torch']}, commit {result['commit']}."
    )


def ratio(rows: Rows, over: str, under: str, key: str = "median") -> float:
    """Return how much of a row's time another one takes; not a number where one of them was not measured."""
    return rows[over][key] / rows[under][key] if {over, under} <= rows.keys() else math.nan


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    first, *others = (f"| {' | '.join(map(str, line))} |" for line in (head, *rows))
    return "\n".join((first, "|" + "---|" * len(head), *others))


def loss_table(rows: Rows) -> str:
    lines = []
    for name, row in rows.items():
        same_layout = "MSE, contiguous" if name.endswith("contiguous") or name.startswith("released") else "MSE"
        ratios = f"{ratio(rows, RELEASED, name):.1f}", f"{ratio(rows, name, same_layout):.2f}"
        lines.append((name, f"{row['median']:.1f}", f"{row['peak'] / 2**20:.0f}", *ratios))
    head = ("loss", "ms", "peak MiB", "times faster than released, T = 6", "times MSE, same layout")
    return table(head, lines)


def loss_part(rows: Rows) -> str:
    goals = []
    for name, other, key, bound in GOALS:
        found = ratio(rows, other, name) if key == "faster" else ratio(rows, name, other, key)
        reached = found >= bound if key == "faster" else found <= bound
        goals.append((name, other, WANTED[key].format(bound), f"{found:.2f}", "yes" if reached else "no"))
    return f"{loss_table(rows)}\n\n{table(('loss', 'against', 'wanted', 'measured', 'reached'), goals)}"


def gains_part(loss: Rows, kept: Rows, steps: Mapping[str, Rows], cached: Mapping[str, Rows]) -> str:
    """Return what the fused form gains: for the loss with both allocators, and for whole steps."""
    times = [f"{ratio(rows, RELEASED, OFFICIAL):.0f}" for rows in (loss, kept)]
    plain = [
        (name, *(f"{ratio(rows, f'{name} (plain)', name):.1f}" for rows in (loss, kept)))
        for name in (OFFICIAL, PAPER, "FreeKD details")
    ]
    gains = [(pair, 1 - ratio(rows, STEP, PLAIN_STEP)) for pair, rows in steps.items()]
    gains += [(f"{task}, cached teacher", 1 - ratio(rows, CACHED, PLAIN_CACHED)) for task, rows in cached.items()]
    gained = ", ".join(f"{100 * gain:.1f} % ({name})" for name, gain in gains)
    head = ("plain form / fused form", "default allocator", "kept memory")
    return (
        f"`official`, T = 6: {times[0]} times faster than the released form with the default allocator, {times[1]} times with "
        f"kept memory. Against the plain form of this package, a whole step gains {gained}.\n\n{table(head, plain)}"
    )


def passes_part(result: Mapping[str, Any]) -> str:
    speed, pyramid = result["machine"]["bandwidth"], 4 * CHANNELS * sum(height * width for height, width in SIZES)
    lines = []
    for name, (passes, what) in PASSES.items():
        size, found = passes * pyramid, result["rows"][name]["median"]
        floor = 1e3 * size / speed["copy"]
        lines.append((name, passes, f"{size / 1e6:.0f}", f"{floor:.1f}", f"{found:.1f}", f"{found / floor:.1f}", what))
    head = ("loss", "passes", "MB", "floor, ms", "measured, ms", "measured / floor", "which passes")
    return (
        f"Reading runs at {speed['read'] / 1e9:.1f} GB/s here, copying at {speed['copy'] / 1e9:.1f} GB/s (reads and writes "
        "counted); the floor is the bytes at the speed of copying.\n\n" + table(head, lines)
    )


def scaling_part(rows: Rows) -> str:
    lines = [
        (name, f"{row['median']:.1f}", f"{1e6 * row['median'] / row['positions']:.0f}") for name, row in rows.items()
    ]
    images = [row for name, row in rows.items() if name.startswith("image")]
    positions, times = ([row[key] for row in images] for key in ("positions", "median"))
    slope, call = statistics.linear_regression(positions, times)
    miss = max(abs((call + slope * count) / time - 1) for count, time in zip(positions, times))
    return (
        f"{table(('case', 'ms', 'ns per position'), lines)}\n\nThe line {call:.1f} ms + {1e6 * slope:.0f} ns per position fits "
        f"the four images to {100 * miss:.0f} %. Its first number is Python and the dispatch of operations, once a call."
    )


def step_part(pairs: Mapping[str, Rows]) -> str:
    lines = []
    for pair, rows in pairs.items():
        times = {name: row["median"] for name, row in rows.items()}
        both = times["student alone"] + times[TAP]
        saved = 1 - times[STEP] / (times[STEP] - times[TAP] + times[FULL])
        columns = (times.get(name, math.nan) for name in ("student alone", TAP, STEP, PLAIN_STEP))
        shown = [f"{time:.0f}" for time in columns]
        lines.append((pair, *shown, f"{times[STEP] / both:.3f}", f"{times[FULL]:.0f}", f"{100 * saved:.0f} %"))
    names = (
        "student alone, ms",
        TAP,
        STEP,
        PLAIN_STEP,
        "step / (student + teacher)",
        FULL,
        "saved against a step with it",
    )
    rows = next(iter(pairs.values()))
    options = [TAP, *(name for name in rows if name.startswith("teacher, ") and name != FULL)]
    others = [(pair, *(f"{rows[name]['median']:.0f}" for name in options)) for pair, rows in pairs.items()]
    said = "The teacher to its tap, ms, with options of `teacher=dict(...)`:"
    head = ("pair", "as it is", *(name.removeprefix("teacher, ") for name in options[1:]))
    return f"{table(('pair', *names), lines)}\n\n{said}\n\n{table(head, others)}"


def cached_step_part(result: Mapping[str, Any]) -> str:
    ratios = ((CACHED, "teacher in memory"), ("teacher runs", CACHED))
    lines = []
    for task, rows in result["rows"].items():
        shown = [f"{row['median']:.0f}" for row in rows.values()] + [f"{ratio(rows, *pair):.3f}" for pair in ratios]
        lines.append((task, *shown, f"{result['view_bytes'][task] / 1e3:.0f}"))
    names = next(iter(result["rows"].values()))
    head = ("sample", *(f"{name}, ms" for name in names), *(" / ".join(pair) for pair in ratios), "kB for a view")
    return table(head, lines)


def accelerator_part(loss: Mapping[str, Any], scaling: Mapping[str, Any]) -> str:
    """Return the times of the losses on an accelerator, and how little they grow there."""
    rows, grown = loss["rows"], scaling["rows"]
    small, large = (grown[f"image {size}"] for size in ("256x256", "1024x1024"))
    return (
        f"{loss['machine']['accelerator']}: {where(loss)}\n\n{loss_table(rows)}\n\n`paper` without relation, T = 2, takes "
        f"{small['median']:.1f} ms for an image of 256x256 and {large['median']:.1f} ms for one of 1024x1024, which has 16 "
        f"times the positions. Copying runs at {loss['machine']['bandwidth']['copy'] / 1e9:.0f} GB/s."
    )


def build() -> str:
    """Return the page."""
    loss, kept, scaling, steps, cached, launches = (
        load(f"{name}_cpu")
        for name in ("loss_speed", "loss_speed_kept", "scaling", "iteration_speed", "cached_step", "launches")
    )
    parts = {
        "GAINS": gains_part(loss["rows"], kept["rows"], steps["rows"], cached["rows"]),
        "LOSS": f"{where(loss)}\n\n{loss_part(loss['rows'])}",
        "ACCELERATOR": accelerator_part(load("loss_speed_cuda"), load("scaling_cuda")),
        "LAUNCHES": table(("loss", "operations"), list(launches["rows"].items())),
        "PASSES": passes_part(loss),
        "SCALING": f"{where(scaling)}\n\n{scaling_part(scaling['rows'])}",
        "STEP": f"{where(steps)}\n\n{step_part(steps['rows'])}",
        "CACHED STEP": f"{where(cached)}\n\n{cached_step_part(cached)}",
    }
    page = (ROOT / "benchmarks" / "page.md").read_text()
    for name, text in parts.items():
        page = page.replace(f"<!-- {name} -->", text)
    return page


def main() -> None:
    (ROOT / "docs" / "benchmarks.md").write_text(build())
    print("written: docs/benchmarks.md")


if __name__ == "__main__":
    sys.exit(main())
