"""Tables and numbers of finished studies for pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from freqkd.studies import statistics as st
from freqkd.studies.answer import COLUMNS, Record, length_of
from freqkd.studies.formatting import difference, form_of, missed_classes, table, table_of_classes, text
from freqkd.studies.search import name_trial


def methods_at(answer: Record, length: Record, brief: bool = False) -> str:
    """Return the table of one length: what each method gains, and in which share of the student's time.

    Args:
        answer: of a study.
        length: one of its lengths.
        brief: rows by the mean metric, the best first, without times and verdicts: for explorations.
    """
    form, rows = form_of(answer), []
    ordered = sorted(length["rows"], key=lambda row: -row["metric"]) if brief else length["rows"]
    shown = {key: head for key, head in COLUMNS.items() if key == "to_mse" or any(row[key] for row in length["rows"])}
    for row in ordered:
        gain = row["to_student"]
        deviation = "" if row["deviation"] is None else f" ± {row['deviation']:{form}}"
        cells = {
            "method": row["method"], "runs": str(len(row["metrics"])),
            answer["metric_name"]: text(row["metric"], form) + deviation,
            "to student alone": difference(gain, "+" + form),
            **{head: difference(row[key], "+" + form) for key, head in shown.items() if key != "to_control"},
        }  # fmt: skip
        if not brief:
            cells |= {
                "share of gap": text(row["share"] and row["share"][:1], ".0%"),
                "s a step": text(row["pace"], ".2f"),
                "time to the student alone's metric": text(
                    row["time_to_student"], ".0%", "never" if row["timed"] else "-"
                ),
                "verdict": (gain or {}).get("words", "-"),
            }
        rows.append(cells)
    return "\n".join(table(rows))


def summary(answers: Sequence[Record], method: str) -> str:
    """Return a table of one method over studies: its gains over the student alone, MSE and PKD at each length.

    Args:
        answers: of the studies; those that explore on the selection part are left out.
        method: whose gains these are.

    Raises:
        ValueError: no study has the method.
    """
    rows = []
    for answer, length, of_study in _reported(answers):
        form, by_name = form_of(answer), {row["method"]: row for row in length["rows"]}
        if method not in by_name:
            continue
        row, alone = by_name[method], by_name[st.STUDENT]
        rows.append({
            **of_study, "seeds": str(row["to_student"]["seeds"] if row["to_student"] else len(row["metrics"])),
            "student alone": text(alone["metric"], form), method: text(row["metric"], form),
            "teacher": text(answer["teacher"]["metric"], form),
            **{f"gain over {name}": _judged(row[key], form) for key, name in
               (("to_student", "the student alone"), ("to_mse", "MSE"), ("to_pkd", "PKD"))},
        })  # fmt: skip
    if not rows:
        raise ValueError(f"the summary's method must be in a study, got {method!r}, which is in none")
    return "\n".join(table(rows))


def gains(answers: Sequence[Record], methods: Sequence[str], word: str = "") -> str:
    """Return a table of the gains of several methods over the student alone, a row for each study and length.

    Gains that Holm's correction leaves are bold.

    Args:
        answers: of the studies; those that explore on the selection part are left out.
        methods: a column each.
        word: that their names have, for messages.

    Raises:
        ValueError: there is no study, or none has a method.
    """
    rows = []
    for answer, length, of_study in _reported(answers):
        by_name = {row["method"]: row for row in length["rows"]}
        form, alone = ".1f" if answer["scale"] > 1 else ".3f", by_name[st.STUDENT]
        cells = {}
        for name in methods:
            entry = by_name[name]["to_student"] if name in by_name else None
            cell = difference(entry, "+" + form)
            if entry and entry["seeds"] < len(alone["metrics"]):
                cell += f", {entry['seeds']} seed{'s' * (entry['seeds'] > 1)}"
            cells[name] = f"**{cell}**" if entry and entry.get("verdict") in ("helps", "hurts") else cell
        rows.append({
            **of_study, "seeds": str(len(alone["metrics"])), "student alone": text(alone["metric"], form), **cells,
            "teacher": text(answer["teacher"]["metric"], form),
        })  # fmt: skip
    if not rows:
        raise ValueError(f"gains must have a word in the name of a study that has run, got {word!r}")
    for name in methods:
        if all(row[name] == "-" for row in rows):
            raise ValueError(f"gains must name methods of the studies, got {name!r}, which is in none")
    return "\n".join(table(rows))


def premises(answers: Sequence[Record]) -> str:
    """Return a table of what studies can tell: teacher's lead, how far the student alone has come, how seeds differ, how many
    a gain worth having needs (see `statistics.pilot`).

    A row for each length with two seeds or more; the last fifth of the curve is on the selection part.

    Args:
        answers: of the studies; those that explore on the selection part are left out.
    """
    rows = []
    for answer, length, of_study in _reported(answers):
        form, alone = form_of(answer), row_of(length, st.STUDENT)
        methods = [row["to_student"] for row in length["rows"] if not row["method"].endswith(st.CONTROL)]
        paired = [entry["deviation"] for entry in methods if entry and entry["deviation"]]
        if not paired:
            continue
        (_, before), (_, last) = alone["curve"][-2:]
        deviation = float(np.sqrt(np.mean(np.square(paired))))
        needed = st.seeds_needed(length["worthwhile"], deviation, st.LEVEL / len(paired))
        rows.append({
            **of_study, "teacher": f"{answer['teacher']['metric']:{form}}",
            "its classes below 1 %": missed_classes(answer["teacher"]) or "-",
            "its lead over the student alone": text(answer["teacher"]["metric"] - alone["metric"], form),
            "gain of the student alone in the last fifth": text(last - before, "+" + form),
            "deviation of the student alone": text(alone["deviation"], form),
            "of paired differences": text(deviation, form),
            "seeds run": str(len(alone["metrics"])),
            "seeds that find a gain worth having": text(needed, "d"),
        })  # fmt: skip
    if not rows:
        raise ValueError("premises needs a study with two seeds of the student alone and a method")
    return "\n".join(table(rows))


def between(answers: Sequence[Record], method: str, other: str) -> str:
    """Return a table of the differences of two methods over studies, paired over the seeds that both have.

    Args:
        answers: of the studies; those that explore on the selection part are left out.
        method, other: the difference is the first minus the second.

    Raises:
        ValueError: no study has both.
    """
    rows = []
    for answer, length, of_study in _reported(answers):
        names = {row["method"] for row in length["rows"]}
        if {method, other} <= names:
            form, found = form_of(answer), vars(gain(length, method, other))
            first, second = (row_of(length, name)["metrics"] for name in (method, other))
            seeds = (
                sorted(first.keys() & second.keys()) if found["paired"] else []
            )  # in order, for the last digit of a mean
            means = [np.mean([runs[seed] for seed in seeds or runs]) for runs in (first, second)]
            rows.append({
                **of_study, "seeds": str(found["seeds"]), method: text(float(means[0]), form),
                other: text(float(means[1]), form), f"{method} - {other}": difference(found, "+" + form),
            })  # fmt: skip
    if not rows:
        raise ValueError(
            f"between must name two methods, 'A and B', that a study has both, got {method!r} and {other!r}"
        )
    return "\n".join(table(rows))


def trials(answer: Record, length: Record, records: Sequence[Record]) -> str:
    """Return a table of a study's search at one length: the metric of each trial on the selection part, the chosen one bold.

    A method without a final run has none.

    Args:
        answer: of the study.
        length: one of its lengths.
        records: of its trials.

    Raises:
        ValueError: it has none.
    """
    form, found = form_of(answer), [record for record in records if length_of(record["budget"]) == length["length"]]
    if not found:
        raise ValueError(f"trials must name a length of {answer['study']} with a search, got {length['length']!r}")
    names = sorted({record["method"] for record in found}, key=lambda name: (name != st.STUDENT, name))
    rows = []
    for name in names:
        own = sorted(
            (record for record in found if record["method"] == name), key=lambda record: [*record["options"].values()]
        )
        chosen = [options for row in length["rows"] if row["method"] == name for options in row["options"]]
        cells = []
        for record in own:
            number = text(record["metric"], form, "not finite")
            options = ", ".join(f"{key} {value:g}" for key, value in record["options"].items())
            cells.append(f"{options or name_trial({})}: {f'**{number}**' if record['options'] in chosen else number}")
        rows.append({"method": name, f"trials, {answer['metric_name']} on the selection part": "; ".join(cells)})
    return "\n".join(table(rows))


def classes(answer: Record, length: Record) -> str:
    """Return a table of the metric of each class; see `formatting.table_of_classes`.

    Args:
        answer: of the study.
        length: one of its lengths.

    Raises:
        ValueError: no method's runs have it.
    """
    if not (lines := table_of_classes(answer, length)):
        raise ValueError(
            f"classes must name a length whose runs have by_class, got {answer['study']} {length['length']}"
        )
    return "\n".join(lines)


def beside(lengths: Sequence[tuple[Record, Record]]) -> str:
    """Return a table of explorations side by side: every method's metric and share of the gap in each, the best first.

    The order is that of the mean share of the gap between student alone and teacher, over those that have the method.

    Args:
        lengths: answers of studies, and the length of each.

    Raises:
        ValueError: a teacher is not above the student alone.
    """
    shares: dict[str, list[float]] = {}
    cells: dict[str, dict[str, str]] = {}
    heads = [
        f"{answer['study']}, {length['length']}, {(seeds := len(length['rows'][0]['metrics']))} seed{'s' * (seeds > 1)}: "
        f"{answer['metric_name']}"
        for answer, length in lengths
    ]
    for head, (answer, length) in zip(heads, lengths):
        alone = row_of(length, st.STUDENT)["metric"]
        gap = answer["teacher"]["metric"] - alone
        if gap <= 0:
            raise ValueError(f"beside needs a teacher above the student alone, but that of {head} is not")
        for row in length["rows"]:
            share = (row["metric"] - alone) / gap
            shares.setdefault(row["method"], []).append(share)
            number = f"{text(row['metric'], form_of(answer))} ({share:+.0%})"
            cells.setdefault(row["method"], dict.fromkeys(heads, "-"))[head] = number
    order = sorted(shares, key=lambda name: -float(np.mean(shares[name])))
    return "\n".join(table([{"form": name, **cells[name]} for name in order]))


def number(answer: Record, length: Record, kind: str, method: str, other: str = "") -> str:
    """Return one number for a sentence.

    Args:
        answer: of a study.
        length: one of its lengths.
        kind: "gain" of a method over another, with its interval; "metric"; "share" of the gap that it wins back; "time" to the
            student alone's last metric, in the student's.
        method, other: names.

    Raises:
        ValueError: a method has no run at this length, or no such number.
    """
    form = ".1f" if answer["scale"] > 1 else ".3f"
    names = {row["method"] for row in length["rows"]}
    for name in filter(None, (method, other)):
        if name not in names:
            raise ValueError(
                f"a number of {answer['study']}, {length['length']}, must be of {', '.join(sorted(names))}, got {name!r}"
            )
    if kind == "gain":
        found = gain(length, method, other)
        ends = f" ({found.low:{form}} to {found.high:{form}})" if found.low is not None else ""
        return f"{found.mean:{form}}{ends}"
    row = row_of(length, method)
    if kind == "metric":
        return text(row["metric"], form)
    value = row["time_to_student"] if kind == "time" else row["share"] and row["share"][0]
    if value is None:
        raise ValueError(
            f"a {kind} of {answer['study']}, {length['length']}, must be known, but that of {method} is not"
        )
    return f"{value:.0%}".replace("%", " %")


def row_of(length: Record, method: str) -> Record:
    """Return a method's row of an answer at one length."""
    found: Record = next(row for row in length["rows"] if row["method"] == method)
    return found


def gain(length: Record, method: str, other: str) -> st.Difference:
    """Return the difference of two methods at one length."""
    first, second = (row_of(length, name)["metrics"] for name in (method, other))
    return st.difference(*({int(seed): metric for seed, metric in runs.items()} for runs in (first, second)))


def _reported(answers: Sequence[Record]) -> list[tuple[Record, Record, Mapping[str, str]]]:
    """Return each length of the answers that judge on a reported split, with the first cells of its row."""
    return [
        (answer, length, {"study": f"{answer['study']}, {length['length']}", "metric": answer["metric_name"]})
        for answer in answers
        if "selection part" not in answer["metric_name"]
        for length in answer["lengths"]
    ]


def _judged(entry: Record | None, form: str) -> str:
    verdict = (entry or {}).get("verdict", "")
    return difference(entry, "+" + form) + (f": {verdict}" if verdict else "")
