"""Numbers of finished studies in Markdown pages: `python -m freqkd.studies.page docs/comparison.md README.md`.

What stands between a comment `<!-- KIND ... -->` and `<!-- end -->` is written again from `studies/results/`:

=============================== ==============================================================================
``table STUDY LENGTH``          a row for each method, e.g. ``table blood-cells 240 steps``
``repeated STUDY LENGTH``       those with more than one seed, by the metric, with the seeds that all have
``words STUDY LENGTH``          the sentences of the answer
``trials STUDY LENGTH``         its search
``classes STUDY LENGTH``        the metric of each class
``beside STUDY LENGTH, ...``    explorations side by side, with the seeds that all forms have
``summary METHOD``              a row for each study and length that judges a method on the reported split
``gains WORD: METHOD, ...``     a row for each whose study has a word in its name, a column for each method
``between METHOD and METHOD``   a row for each, of the difference of two methods
``premises``                    a row for each, of what it can tell
``gain STUDY LENGTH: A over B`` a difference with its interval, within a sentence
``metric STUDY LENGTH: METHOD`` likewise a metric; ``share`` and ``time``: see `tables.number`
=============================== ==============================================================================
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from freqkd.apis.arguments import run_tool
from freqkd.studies import tables
from freqkd.studies.answer import Record, length_of, read_study, summarise, words
from freqkd.studies.statistics import STUDENT
from freqkd.utils.files import write_whole

_KINDS = "table|repeated|words|trials|classes|beside|summary|gains|between|premises"
_OLD = r"(?:(?!<!-- ).)*"  # what is written again
_BLOCK = re.compile(rf"(<!-- ({_KINDS})(?: ([^\n]+?))? -->\n){_OLD}(<!-- end -->)", re.DOTALL)
_NUMBER = re.compile(
    rf"(<!-- (gain|metric|share|time) ([\w.+-]+) ([^:\n]+): ([\w.+-]+)(?: over ([\w.+-]+))? -->){_OLD}(<!-- end -->)"
)


class _Pages:
    """Answers of the studies in a folder, each read once."""

    def __init__(self, results: str | Path) -> None:
        self.results = Path(results)
        self.answer = cache(lambda name: summarise(*read_study(self.results / name)))

    @property
    def answers(self) -> list[Record]:
        """Of all studies that have begun their final runs."""
        begun = [path.parent for path in self.results.glob("*/STUDY.json") if [*path.parent.glob(f"{STUDENT}_*.json")]]
        return [self.answer(folder.name) for folder in sorted(begun)]

    def at(self, place: str, asked: str, fewest: int = 0) -> tuple[Record, Record]:
        """Return the answer of "STUDY LENGTH" and its part for that length.

        Args:
            place: the study and the length.
            asked: the comment, for messages.
            fewest: seeds of a method that is kept, with the seeds that all of these have; 0: all runs.
        """
        name, _, length = place.partition(" ")
        answer = self.answer(name)
        if fewest:
            study, runs = read_study(self.results / name)
            runs = _with_shared_seeds([run for run in runs if length_of(run["budget"]) == length], fewest)
            if STUDENT not in {run["method"] for run in runs}:
                raise ValueError(
                    f"<!-- {asked} --> must name a length at which the student alone ran with {fewest} or more seeds, one of "
                    "them a seed of all methods in the table"
                )
            answer = summarise(study, runs)
        lengths = {entry["length"]: entry for entry in answer["lengths"]}
        if length not in lengths:
            raise ValueError(f"<!-- {asked} --> must name a length of {name}: {', '.join(lengths)}")
        return answer, lengths[length]

    def block(self, kind: str, place: str) -> str:
        """Return the content of a block of lines."""
        asked = f"{kind} {place}".strip()
        if kind == "premises":
            return tables.premises(self.answers)
        if kind == "summary":
            return tables.summary(self.answers, place)
        if kind == "gains":
            word, _, methods = place.partition(": ")
            return tables.gains([one for one in self.answers if word in one["study"]], methods.split(", "), word)
        if kind == "between":
            method, _, other = place.partition(" and ")
            return tables.between(self.answers, method, other)
        if kind == "beside":
            return tables.beside([self.at(one, asked, fewest=1) for one in place.split(", ")])
        if kind == "repeated":
            return tables.methods_at(*self.at(place, asked, fewest=2), brief=True)
        answer, length = self.at(place, asked)
        if kind == "classes":
            return tables.classes(answer, length)
        if kind == "trials":
            files = sorted(self.results.joinpath(answer["study"], "search").glob("*.json"))
            return tables.trials(answer, length, [json.loads(path.read_text("utf-8")) for path in files])
        return words(answer, length) if kind == "words" else tables.methods_at(answer, length)


def fill(text: str, results: str | Path = "studies/results") -> str:
    """Return a page with its blocks and numbers written again.

    Args:
        text: of the page.
        results: folder of the results of all studies.

    Raises:
        ValueError: a comment is not one of the kinds, or has no end; a study has no such length, or no such method.
    """
    pages = _Pages(results)

    def block(found: re.Match[str]) -> str:
        start, kind, place, end = found.groups()
        return f"{start}{pages.block(kind, place or '')}\n{end}"

    def number(found: re.Match[str]) -> str:
        start, kind, name, length, method, other, end = found.groups()
        asked = f"{kind} {name} {length}: {method}" + (f" over {other}" if other else "")
        if (kind == "gain") != bool(other):
            raise ValueError(f"<!-- {asked} --> must name two methods for a gain, 'A over B', and else one")
        return f"{start}{tables.number(*pages.at(f'{name} {length}', asked), kind, method, other or '')}{end}"

    parts = [*_BLOCK.finditer(text), *_NUMBER.finditer(text)]
    read = {found.start() for found in parts} | {found.start(found.re.groups) for found in parts}  # and their ends
    for comment in re.finditer("<!--.*?(?:-->|$)", text, re.DOTALL):
        if comment.start() not in read:
            line = 1 + text.count("\n", 0, comment.start())
            raise ValueError(
                f"line {line}: {comment[0]!r} must be a kind that python -m freqkd.studies.page --help lists, followed by its "
                "<!-- end -->"
            )
    return _NUMBER.sub(number, _BLOCK.sub(block, text))


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
