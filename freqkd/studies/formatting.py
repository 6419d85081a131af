"""Numbers, intervals and tables of studies in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

UNLEARNT = 0.01  # AP or IoU below which a class counts as not learnt


def form_of(answer: Mapping[str, Any]) -> str:
    """Return how a study's metric is written in tables: with two digits where it is in percent, else with four.

    >>> form_of(dict(scale=100)), form_of(dict(scale=1))
    ('.2f', '.4f')
    """
    return ".2f" if answer["scale"] > 1 else ".4f"


def text(value: float | Sequence[float | None] | None, form: str, missing: str = "-") -> str:
    """Return a number, or a number with the ends of its interval where they are known.

    >>> text(0.5, ".2f"), text([0.5, 0.25, 0.75], "+.2f"), text(None, ".2f")
    ('0.50', '+0.50, +0.25 to +0.75', '-')
    """
    middle, *ends = value if isinstance(value, Sequence) else [value]
    if middle is None:
        return missing
    return format(middle, form) + (f", {ends[0]:{form}} to {ends[1]:{form}}" if ends and None not in ends else "")


def difference(entry: Mapping[str, Any] | None, form: str, ends: Sequence[float] | None = None) -> str:
    """Return a mean difference with its 95 % interval, or with other ends.

    >>> difference(dict(mean=0.5, low=0.25, high=0.75), "+.1f"), difference(dict(mean=0.5, low=None, high=None), "+.1f")
    ('+0.5, +0.2 to +0.8', '+0.5')
    """
    return text([entry["mean"], *(ends or (entry["low"], entry["high"]))] if entry else None, form)


def table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the lines of a table.

    >>> table([dict(method="mse", seeds="3")])
    ['| method | seeds |', '| --- | --- |', '| mse | 3 |']
    """
    cells = [rows[0].keys(), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in cells]


def table_of_classes(answer: Mapping[str, Any], length: Mapping[str, Any]) -> list[str]:
    """Return the lines of a table of the metric of each class, a mean over runs; none where no method's runs have it.

    Where it is not 1 % or more in all of them, the cell says in how many it is.

    Args:
        answer: of a study.
        length: one of its lengths.
    """
    known = {row["method"]: row["by_class"] for row in length["rows"] if row["by_class"]}
    if not known:
        return []
    teacher = {name: [value] for name, value in (answer["teacher"].get("by_class") or {}).items()}
    rows = []
    for method, by_class in (known | {"teacher": teacher} if teacher else known).items():
        cells = {"method": method}
        for name, values in by_class.items():
            present = [value for value in values if value is not None]
            learnt = sum(value >= UNLEARNT for value in present)
            mean = answer["scale"] * sum(present) / len(present) if present else None
            cells[name] = text(mean, form_of(answer))
            if learnt < len(present) and present[1:]:
                cells[name] += f" (in {learnt} of {len(present)} runs)"
        rows.append(cells)
    return table(rows)


def missed_classes(teacher: Mapping[str, Any]) -> str:
    """Return how many of a teacher's classes it has not learnt; nothing where that is not known.

    >>> missed_classes(dict(by_class=dict(a=0.5, b=0.0, c=None))), missed_classes({})
    ('1 of 2', '')
    """
    known = [value for value in (teacher.get("by_class") or {}).values() if value is not None]
    return f"{sum(value < UNLEARNT for value in known)} of {len(known)}" if known else ""
