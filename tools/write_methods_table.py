"""The table of methods and heads in docs/methods.md, from the configs, configs/heads.yml and the results of the studies.

`--check` writes nothing, and fails where the table is not what would be written.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from write_model_pages import ROOT, Entry, find_entries, table

from freqkd.studies.answer import read_study, summarise

PAGE = "docs/methods.md"
BLOCK = re.compile(r"(<!-- Written by tools/write_methods_table.py -->\n).*?(<!-- end -->)", re.DOTALL)
STUDIES = {"blood cells, box AP": "blood-cells", "road scenes, mIoU": "road-scenes"}


def column_of(network: str, columns: Mapping[str, Sequence[str]]) -> str | None:
    """Return the column in which a network stands.

    >>> column_of("faster-rcnn-r50", {"RetinaNet": ["retinanet"], "Faster R-CNN": ["faster-rcnn"]})
    'Faster R-CNN'
    """
    return next((name for name, starts in columns.items() if network.startswith(tuple(starts))), None)


def find_configs(entries: Sequence[Entry], facts: Mapping[str, Any]) -> dict[tuple[str, str], list[str]]:
    """Return the configs of each cell, by the titles of its row and column, as paths from the repository's root."""
    rows = {method: row["title"] for row in facts["rows"] for method in row["of"]}
    found: dict[tuple[str, str], list[str]] = {}
    for one in entries:
        column = column_of(one.student or one.teacher, facts["columns"])
        if one.method in rows and column:
            found.setdefault((rows[one.method], column), []).append(str(one.path))
    for path, titles in facts["examples"].items():
        column = column_of(Path(path).name, facts["columns"])
        for title in titles:
            found.setdefault((title, str(column)), []).append(f"examples/{path}")
    return found


def cell(row: Mapping[str, Any], column: str, configs: Sequence[str]) -> str:
    """Return what a cell says: how many configs there are, linked, or why there is none."""
    if configs:
        folders: dict[str, list[str]] = {}
        for path in configs:
            folders.setdefault(str(Path(path).parent), []).append(path)
        return ", ".join(
            f"[{len(paths)}](../{folder if len(paths) > 1 else paths[0]})" for folder, paths in folders.items()
        )
    said = (text for start, text in row["cells"].items() if column.startswith(start))
    return str(next(said, row["cells"].get("else")))


@cache
def _answer(folder: Path) -> dict[str, Any]:
    return summarise(*read_study(folder))


def gain(study: str, method: str | None, results: Path) -> str:
    """Return a method's gain over the student alone in a study, on the reported split or else the selection part."""
    for folder, part in ((study, ""), (f"{study}-forms", ", selection part")):
        if method is None or not (results / folder / "STUDY.json").exists():
            continue
        answer = _answer(results / folder)
        form = ".4f" if answer["scale"] == 1 else ".2f"
        for length in answer["lengths"]:
            for row in length["rows"]:
                if row["method"] == method and row["to_student"]:
                    entry, seeds = row["to_student"], len(row["metrics"])
                    verdict = f", {entry['verdict']}" if seeds > 1 else ""
                    return f"{entry['mean']:+{form}}{verdict} ({seeds} seed{'s' * (seeds > 1)}{part})"
    return "-"


def selection_gains(results: Path) -> str:
    """Return what the references gain where there is no search and the selection part judges, in words."""
    found = []
    for title, method in (("FreeKD's details", "details"), ("MSE", "mse")):
        gains = []
        for study in STUDIES.values():
            answer = _answer(results / f"{study}-forms")
            (row,) = (row for row in answer["lengths"][0]["rows"] if row["method"] == method)
            (alone,) = (row for row in answer["lengths"][0]["rows"] if row["method"] == "student")
            first = row["metrics"]["0"] - alone["metrics"]["0"]  # the seed that all methods have
            gains.append(f"{first:+{'.4f' if answer['scale'] == 1 else '.2f'}}")
        found.append(f"{title} gain{'s' * (title == 'MSE')} {' and '.join(gains)}")
    return ", ".join(found)


def _check_rows(rows: Sequence[Mapping[str, Any]], methods: Collection[str]) -> None:
    """Refuse rows without cells, and configs whose method stands in no row."""
    for row in rows:
        if missing := [key for key in ("title", "of", "cells") if key not in row]:
            raise SystemExit(f"configs/heads.yml: the row {dict(row)} misses {', '.join(missing)}; see the other rows")
    if missing := sorted({*methods} - {method for row in rows for method in row["of"]}):
        raise SystemExit(
            f"configs/heads.yml: rows miss {', '.join(missing)}; add a line `  - {{title: ..., of: [{missing[0]}], "
            'cells: {else: "="}}`, or name it in a row that is there'
        )


def block(root: Path = ROOT) -> str:
    """Return the table and its notes."""
    facts = yaml.safe_load((root / "configs/heads.yml").read_text("utf-8"))
    entries = find_entries(root)
    _check_rows(facts["rows"], {one.method for one in entries} - {"baselines", "prompts"})
    found = find_configs(entries, facts)
    rows = []
    for row in facts["rows"]:
        cells = [cell(row, column, found.get((row["title"], column), [])) for column in facts["columns"]]
        gains = [gain(study, row.get("study"), root / "studies/results") for study in STUDIES.values()]
        rows.append([row["title"], *cells, *gains])
    notes = "\n".join(f"- {key}: {text}." for key, text in facts["reasons"].items())
    return f"""{len(found)} cells are configs; each takes a step in `make test-configs`, or in the tests of `examples/`.
The others say what a config of your own needs, by the name of an [adapter](#adapters), or why there is none:

{notes}

The last columns are gains over the student alone, from [comparison.md](comparison.md); one seed is no verdict.
Gains on the selection part have no search behind them, and can be compared with each other only: there
{selection_gains(root / "studies/results")}. KCD's are with details beside it.

{table(["method", *facts["columns"], *STUDIES], rows)}
"""


def fill(text: str, root: Path = ROOT) -> str:
    """Return the page with its table written again."""
    return BLOCK.sub(lambda found: f"{found[1]}{block(root)}{found[2]}", text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the table, or check it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the table is out of date")
    check = parser.parse_args(arguments).check
    page = ROOT / PAGE
    text = page.read_text("utf-8")
    filled = fill(text)
    if filled != text and not check:
        page.write_text(filled, "utf-8")
    print(f"{PAGE} {'is up to date' if filled == text else 'is out of date' if check else 'was written'}")
    return int(check and filled != text)


if __name__ == "__main__":
    sys.exit(main())
