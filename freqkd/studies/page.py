"""Numbers of finished studies in Markdown pages: `python -m freqkd.studies.page docs/comparison.md README.md`.

What stands between `<!-- KIND STUDY LENGTH -->` and `<!-- end -->` is written again from `studies/results/STUDY`, e.g. for
`<!-- table blood-cells 240 steps -->`. KIND is "table", a row for each method; "order", the same by the metric, with the
seeds that all methods have, without times and verdicts; "words", the sentences of the answer; or "brief", its verdicts
against the student alone.
`<!-- summary METHOD -->` is a row for each study and length that judges METHOD on the reported split.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from freqkd.apis.arguments import run_tool
from freqkd.studies.answer import Record, brief, compact, overview, read_study, summarise, words
from freqkd.studies.statistics import STUDENT
from freqkd.utils.files import write_whole

_BLOCK = re.compile(r"(<!-- (table|order|words|brief) ([\w.+-]+) (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)
_SUMMARY = re.compile(r"(<!-- summary ([\w.+-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill(text: str, results: str | Path = "studies/results") -> str:
    """Return a page with its blocks written again.

    Args:
        text: of the page.
        results: folder of the results of all studies.

    Raises:
        ValueError: a study has no such length.
    """

    def block(found: re.Match[str]) -> str:
        start, kind, name, length, end = found.groups()
        study, runs = read_study(Path(results, name))
        answer = summarise(study, _with_shared_seeds(runs) if kind == "order" else runs)
        lengths = {entry["length"]: entry for entry in answer["lengths"]}
        if length not in lengths:
            raise ValueError(f"<!-- {kind} {name} {length} --> must name a length of {name}: {', '.join(lengths)}")
        return f"{start}{_content(kind, answer, lengths[length])}\n{end}"

    def summary(found: re.Match[str]) -> str:
        start, method, end = found.groups()
        studies = [read_study(path.parent) for path in sorted(Path(results).glob("*/STUDY.json"))]
        comparable = [(study, runs) for study, runs in studies if STUDENT in {run["method"] for run in runs}]
        return f"{start}{overview([summarise(*one) for one in comparable], method)}\n{end}"

    return _SUMMARY.sub(summary, _BLOCK.sub(block, text))


def _with_shared_seeds(runs: Sequence[Record]) -> list[Record]:
    """Return the runs with the seeds that all methods have, whose means can be put in an order.

    >>> runs = [dict(method=method, seed=seed) for method, seed in (("a", 0), ("a", 1), ("b", 0))]
    >>> [run["method"] for run in _with_shared_seeds(runs)]
    ['a', 'b']
    """
    seeds: dict[str, set[int]] = {}
    for run in runs:
        seeds.setdefault(run["method"], set()).add(run["seed"])
    shared = set.intersection(*seeds.values())
    return [run for run in runs if run["seed"] in shared]


def _content(kind: str, answer: Record, length: Record) -> str:
    if kind in ("words", "brief"):
        return (words if kind == "words" else brief)(answer, length)
    return compact(answer, length, brief=kind == "order")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m freqkd.studies.page", description=__doc__)
    parser.add_argument("pages", nargs="+", help="Markdown files, changed in place")
    parser.add_argument("--results-dir", default="studies/results", help="default: %(default)s")
    options = parser.parse_args(arguments)
    filled = {page: fill(Path(page).read_text("utf-8"), options.results_dir) for page in options.pages}
    for page, text in filled.items():
        with write_whole(page) as file:
            file.write(text.encode())


if __name__ == "__main__":
    sys.exit(run_tool(main))
