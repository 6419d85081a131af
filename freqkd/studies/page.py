"""Numbers of finished studies in Markdown pages: `python -m freqkd.studies.page docs/comparison.md README.md`.

What stands between `<!-- KIND STUDY LENGTH -->` and `<!-- end -->` is written again from `studies/results/STUDY`, e.g. for
`<!-- table blood-cells 240 steps -->`. KIND is "table", a row for each method; "order", the same by the metric, with the
seeds that all methods have, without times and verdicts; "repeated", the same of the methods with more than one seed; "words",
the sentences of the answer; or "brief", its verdicts against the student alone.
`<!-- summary METHOD -->` is a row for each study and length that judges METHOD on the reported split, `<!-- premises -->` a row
for each, with what it can tell.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from freqkd.apis.arguments import run_tool
from freqkd.studies.answer import Record, brief, compact, length_of, overview, premises, read_study, summarise, words
from freqkd.studies.statistics import STUDENT
from freqkd.utils.files import write_whole

_BLOCK = re.compile(r"(<!-- (table|order|repeated|words|brief) ([\w.+-]+) (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)
_FEWEST_SEEDS = {"order": 1, "repeated": 2}  # of a method in tables of explorations
_OVERVIEW = re.compile(r"(<!-- (?:summary ([\w.+-]+)|premises) -->\n).*?(<!-- end -->)", re.DOTALL)


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
        answer = summarise(study, runs)
        lengths = {entry["length"]: entry for entry in answer["lengths"]}
        if length not in lengths:
            raise ValueError(f"<!-- {kind} {name} {length} --> must name a length of {name}: {', '.join(lengths)}")
        if kind in _FEWEST_SEEDS:
            runs = [run for run in runs if length_of(run["budget"]) == length]
            runs = _with_shared_seeds(runs, _FEWEST_SEEDS[kind])
            if STUDENT not in {run["method"] for run in runs}:
                raise ValueError(
                    f"<!-- {kind} {name} {length} --> must name a length at which the student alone ran with "
                    f"{_FEWEST_SEEDS[kind]} or more seeds, one of them a seed of all methods in the table"
                )
            answer = summarise(study, runs)
            lengths[length] = answer["lengths"][0]
        return f"{start}{_content(kind, answer, lengths[length])}\n{end}"

    def over_studies(found: re.Match[str]) -> str:
        start, method, end = found.groups()
        studies = [read_study(path.parent) for path in sorted(Path(results).glob("*/STUDY.json"))]
        comparable = [(study, runs) for study, runs in studies if STUDENT in {run["method"] for run in runs}]
        answers = [summarise(*one) for one in comparable]
        return f"{start}{overview(answers, method) if method else premises(answers)}\n{end}"

    return _OVERVIEW.sub(over_studies, _BLOCK.sub(block, text))


def _with_shared_seeds(runs: Sequence[Record], fewest: int) -> list[Record]:
    """Return the runs of methods with `fewest` seeds or more, with the seeds that all of these have, for an order of means.

    >>> runs = [dict(method=method, seed=seed) for method, seed in (("a", 0), ("a", 1), ("b", 0))]
    >>> [run["method"] for run in _with_shared_seeds(runs, 1)], [run["method"] for run in _with_shared_seeds(runs, 2)]
    (['a', 'b'], ['a', 'a'])
    """
    seeds: dict[str, set[int]] = {}
    for run in runs:
        seeds.setdefault(run["method"], set()).add(run["seed"])
    kept = {method: found for method, found in seeds.items() if len(found) >= fewest}
    shared = set.intersection(*kept.values()) if kept else set()
    return [run for run in runs if run["method"] in kept and run["seed"] in shared]


def _content(kind: str, answer: Record, length: Record) -> str:
    if kind in ("words", "brief"):
        return (words if kind == "words" else brief)(answer, length)
    return compact(answer, length, brief=kind in _FEWEST_SEEDS)


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
