"""Report of a comparison study: tables, curves, a JSON and two sentences from the records of its runs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from freqkd.studies import statistics as st
from freqkd.studies.formatting import difference, form_of, missed_classes, table, table_of_classes, text
from freqkd.utils.files import write_whole

Record = dict[str, Any]
NUMBERS = {"metric", "seconds_per_step", "train_seconds", "peak_memory_mb"}
RUN = NUMBERS | {"study", "method", "seed", "budget", "options", "curve", "fidelity", "images", "trials"}
STUDY = {"study", "metric_name", "teacher", "calibration"}
COMPARED = {  # how the sentences name what a row is compared with
    "to_student": "",
    "to_mse": " compared with MSE",
    "to_pkd": " compared with PKD",
    "to_control": " compared with its random-teacher control",
}
COLUMNS = {"to_mse": "to MSE", "to_pkd": "to PKD", "to_control": "to its random-teacher control"}
CURVES = 12  # methods in the picture
NOTES = """\
Differences: paired over seeds, with a 95 % t interval (Welch's where seeds are not shared). Verdicts are corrected for the
number of methods (Holm), intervals are not. Over images: 95 % bootstrap interval for the networks at hand. Could see: true
difference that so many seeds find with a chance of 80 %, at 5 % over the number of methods. Time to the student alone's
final metric: mean curves; not given of runs on another device than the student's. Fidelity to the teacher: of segmenters the
share of pixels with its label, of detectors the box AP with its detections of a score of 0.3 or more as the objects."""


def read_study(folder: str | Path) -> tuple[Record, list[Record]]:
    """Return the study's record and its runs, from the JSON files of a folder; `statistics` describes both.

    Raises:
        ValueError: a file is not a record, misses keys, or has a metric or a cost that is not a finite number; a run is
            there twice or belongs to another study; there is not exactly one study's record.
    """
    records: dict[tuple[Any, ...], Record] = {}
    for path in sorted(Path(folder).glob("*.json")):
        if path.name == "answer.json":
            continue
        record = json.loads(path.read_text("utf-8"))
        if not isinstance(record, dict) or not record.keys() & {"method", "metric_name"}:
            raise ValueError(f"{path} must be an object with 'method' (a run) or 'metric_name' (the study)")
        if missing := sorted((RUN if "method" in record else STUDY) - record.keys()):
            raise ValueError(f"{path} misses {', '.join(missing)}")
        for key in NUMBERS & record.keys():
            if not isinstance(record[key], int | float) or not np.isfinite(record[key]):
                raise ValueError(f"{path}: {key} must be a finite number, got {record[key]!r}")
        name = (length_of(record["budget"]), record["method"], record["seed"]) if "method" in record else ()
        if name in records:
            raise ValueError(f"{path}: {name or 'the study'} is there twice; keep one of the two files")
        records[name] = record
    if () not in records:
        raise ValueError(f"{folder} must hold the study's record, a JSON file with {', '.join(sorted(STUDY))}")
    study = records.pop(())
    tried = [json.loads(path.read_text("utf-8")) for path in Path(folder, "search").glob("*.json")]
    counts = Counter((length_of(trial["budget"]), trial["method"]) for trial in tried)  # a search may have grown
    for (length, method, _), record in records.items():
        record["trials"] = counts[length, method] or record["trials"]
    if others := sorted({run["study"] for run in records.values()} - {study["study"]}):
        raise ValueError(f"{folder} holds runs of {', '.join(others)} beside the study {study['study']}")
    return study, list(records.values())


def length_of(budget: Mapping[str, Any]) -> str:
    """Return the length of a run in words, by its steps, or by its seconds where these were given.

    >>> length_of(dict(steps=60)), length_of(dict(steps=60, seconds=7.5))
    ('60 steps', '7.5 s')
    """
    return f"{budget['seconds']:g} s" if "seconds" in budget else f"{budget['steps']} steps"


def summarise(study: Record, runs: Sequence[Record]) -> Record:
    """Return the answer of a study as plain numbers: for each length at which the student alone has run, a row a method.

    A row compares its method to the student alone, to MSE and PKD, and to its own control with a random teacher; each of the
    three is a family of its own for Holm's correction. Controls have rows too, but are not counted as methods.

    Args:
        study: the study's record.
        runs: the records of its runs; `draws` in a record is what `statistics.resample` gives for its images.

    Raises:
        ValueError: the student alone has not run at any length.
    """
    lengths = {length_of(run["budget"]) for run in runs if run["method"] == st.STUDENT}
    if not lengths:
        raise ValueError(f"study {study['study']} has no run of the method '{st.STUDENT}' (the student alone)")
    answer = {key: study[key] for key in sorted(STUDY)} | {"scale": study.get("scale", 1), "lengths": []}
    for length in sorted(lengths, key=lambda text: float(text.split()[0])):
        methods: dict[str, dict[int, Record]] = {}
        for run in sorted(runs, key=lambda run: (run["method"] != st.STUDENT, run["method"], run["seed"])):
            if length_of(run["budget"]) == length:
                methods.setdefault(run["method"], {})[run["seed"]] = run
        pilot = {"pilot": study["pilot"][length]} if length in study.get("pilot", {}) else {}
        answer["lengths"].append({"length": length, **pilot, **_summarise_length(study, methods, bool(pilot))})
    return answer


def _summarise_length(study: Record, methods: Mapping[str, Mapping[int, Record]], pilot: bool) -> Record:
    metrics = {name: {seed: run["metric"] for seed, run in by_seed.items()} for name, by_seed in methods.items()}
    alone, teacher = metrics[st.STUDENT], study["teacher"]["metric"]
    worthwhile = smallest_gain(study, alone)
    last, target = st.mean_curve(run["curve"] for run in methods[st.STUDENT].values())[-1]
    rows = {name: _row(name, [*by_seed.values()]) for name, by_seed in methods.items()}
    for key in COMPARED:
        pairs = {name: other for name in rows if (other := _reference(key, name)) in rows and name != other}
        found = {name: st.difference(metrics[name], metrics[other]) for name, other in pairs.items()}
        offered = {n: entry for n, entry in found.items() if n != st.STUDENT and not n.endswith(st.CONTROL)}
        verdicts = st.verdicts(offered, worthwhile)
        for name, entry in found.items():
            rows[name][key] = asdict(entry) | {"over_images": _over_images(methods[name], methods[pairs[name]])}
            if name in verdicts:
                rows[name][key] |= asdict(verdicts[name]) | {"words": str(verdicts[name])}
                if pilot and verdicts[name].verdict == "cannot tell":  # the number of seeds was fixed
                    rows[name][key]["words"] = "cannot tell"
    tested = [entry for row in rows.values() if (entry := row["to_student"]) and entry.get("p_holm") is not None]
    level, student = st.LEVEL / max(len(tested), 1), rows[st.STUDENT]
    for name, row in rows.items():
        row["timed"] = row["timed"] or (row["devices"] == student["devices"] and len(student["devices"]) == 1)
        reached = st.seconds_to(target, row["curve"], row["pace"]) if row["timed"] and row["pace"] else None
        row |= {"seconds_to_student": reached, "time_to_student": reached and reached / (last * student["pace"])}
        if entry := row["to_student"]:
            row["share"] = st.share_of_gap(metrics[name], alone, teacher)
            row["could_see"] = entry["deviation"] and st.smallest_difference(entry["deviation"], entry["seeds"], level)
    return {"worthwhile": worthwhile, "target": target, "rows": [*rows.values()]}


def smallest_gain(study: Record, alone: Mapping[int, float]) -> float:
    """Return the smallest gain worth having: of the metric, or a tenth of the teacher's lead over the student alone.

    >>> round(smallest_gain(dict(teacher=dict(metric=0.5)), {0: 0.3, 1: 0.2}), 3)
    0.025
    """
    lead = float(study["teacher"]["metric"] - np.mean([*alone.values()]))
    return float(study.get("worthwhile", max(0.1 * lead, 0.0)))


def pilot_in_words(answer: Record, found: Record) -> str:
    """Return in a sentence what `statistics.pilot` found.

    Args:
        answer: with the study's scale.
        found: by the pilot, with the number of its `seeds`, and the `most` that the study allowed.

    >>> pilot_in_words(dict(scale=100), dict(seeds=3, most=10, deviation=0.6301, needed=9, worthwhile=0.9338))
    'In a pilot of 3 seeds the paired differences deviate by 0.63, so that a gain of 0.93 needs 9 seeds; 10 were allowed.'
    """
    needed, form = found["needed"] or f"more than {st.MOST_SEEDS}", form_of(answer)
    if found["deviation"] is None:
        return (
            f"In a pilot of {found['seeds']} seeds no deviation was found; the {found['most']} seeds allowed are run."
        )
    if not found["worthwhile"]:
        return (
            f"In a pilot of {found['seeds']} seeds the teacher is not above the student alone, so that no gain counts as the "
            f"smallest worth having; the {found['most']} seeds allowed are run. metric.worthwhile= states one."
        )
    return (
        f"In a pilot of {found['seeds']} seeds the paired differences deviate by {found['deviation']:{form}}, so that a gain "
        f"of {found['worthwhile']:{form}} needs {needed} seeds; {found['most']} were allowed."
    )


def _reference(key: str, method: str) -> str:
    return {"to_student": st.STUDENT, "to_mse": st.MSE, "to_pkd": st.PKD, "to_control": method + st.CONTROL}[key]


def _over_images(method: Mapping[int, Record], reference: Mapping[int, Record]) -> list[float] | None:
    draws: list[list[Any]] = [
        [runs[seed].get("draws") for seed in method if seed in reference] for runs in (method, reference)
    ]
    known = draws[0] and all(x is not None for part in draws for x in part)
    return st.image_interval(*draws) if known else None


def _row(name: str, runs: Sequence[Record]) -> Record:
    devices = sorted({run.get("device") or "" for run in runs})
    costs = NUMBERS - {"metric"} if len(devices) > 1 else {}  # which say nothing of runs on several devices
    mean = {key: None if key in costs else float(np.mean([run[key] for run in runs])) for key in sorted(NUMBERS)}
    fidelity = [run["fidelity"] for run in runs if run["fidelity"] is not None]
    curve = st.mean_curve(run["curve"] for run in runs)
    options = [run["options"] for run in runs]
    budget = runs[0]["budget"]
    is_time = "seconds" in budget  # whose steps were measured beforehand, together
    return {
        "method": name,
        "options": [entry for i, entry in enumerate(options) if entry not in options[:i]],
        "metrics": {str(run["seed"]): run["metric"] for run in runs},
        **mean,
        "deviation": float(np.std([run["metric"] for run in runs], ddof=1)) if len(runs) > 1 else None,
        **dict.fromkeys([*COMPARED, "share", "could_see"]),
        "curve": curve,
        "pace": budget["seconds"] / budget["steps"] if is_time else mean["seconds_per_step"],
        "timed": is_time,
        "fidelity": float(np.mean(fidelity)) if fidelity else None,
        "by_class": _by_class(runs),
        "trials": max(run["trials"] for run in runs),
        "devices": devices,
    }


def _by_class(runs: Sequence[Record]) -> dict[str, list[float | None]] | None:
    """Return the metric of each class in each run; None where one of the runs has none."""
    known = [run.get("by_class") or {} for run in runs]
    return {name: [one[name] for one in known] for name in known[0]} if all(known) else None


def words(answer: Record, length: Record) -> str:
    """Return two sentences about one length: what the data support, and what they do not.

    Comparisons with MSE, PKD and the control are told of methods that help, and only named where they are unsettled. Methods of
    one seed are counted only.
    """
    form, single = form_of(answer), 0
    settled: dict[str, list[str]] = {}
    unsettled: dict[str, list[str]] = {}
    for key, compared in COMPARED.items():
        for row in length["rows"]:
            entry = row[key]
            if not entry or "verdict" not in entry or (compared and row["to_student"]["verdict"] != "helps"):
                continue
            name, numbers, images = f"`{row['method']}`", difference(entry, "+" + form), entry["over_images"]
            if len(row["metrics"]) == 1:
                single += 1
            elif entry["verdict"] == "cannot tell":
                unsettled.setdefault(compared, []).append(name + f" ({numbers}: {entry['words']})" * (not compared))
            else:
                margin = f" by {length['worthwhile']:{form}} or more" * (entry["verdict"] == "does not help")
                settled.setdefault(f"{entry['verdict']}{compared}{margin}", []).append(f"{name} ({numbers})")
                if images and not margin and images[0] <= 0 <= images[1]:
                    on_others = f"{name} ({difference(entry, '+' + form, images)})"
                    unsettled.setdefault(f"{compared} on other images", []).append(on_others)
    claims = [f"{_listed(names)} {_plural(verdict) if names[1:] else verdict}" for verdict, names in settled.items()]
    open_ = [f"{_listed(names)}{compared}" for compared, names in unsettled.items()]
    open_ += [f"{single} method{'s' * (single > 1)} of one seed (run 2 more)"] * bool(single)
    claim = f"that {'; '.join(claims)}" if claims else "no claim about a method"
    verdict = f"a verdict on {'; '.join(open_)}, or " if open_ else ""
    return (
        f"For {answer['study']} at {length['length']} the data support {claim}. They do not support {verdict}a claim about "
        "other data, networks or budgets."
    )


def _listed(names: Sequence[str]) -> str:
    """Return names as a sentence lists them.

    >>> _listed(["a"]), _listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _plural(verdict: str) -> str:
    """Return a verdict of several methods.

    >>> _plural("helps compared with MSE"), _plural("does not help by 0.5 or more")
    ('help compared with MSE', 'do not help by 0.5 or more')
    """
    singular = dict(helps="help", hurts="hurt", does="do")
    first, _, rest = verdict.partition(" ")
    return f"{singular[first]} {rest}".rstrip()


def markdown(answer: Record, picture: str = "curves.png") -> str:
    """Return the report in Markdown: for each length two sentences, a table of gains and a table of costs."""
    form = form_of(answer)
    teacher, missed = f"{answer['teacher']['metric']:{form}}", missed_classes(answer["teacher"])
    teacher += f"; below 1 % in {missed} classes" if missed else ""
    lines = [f"# {answer['study']}: {answer['metric_name']}", "", f"Teacher: {teacher}.", ""]
    lines += [NOTES.replace("\n", " ")]
    lines += ["", f"![Metric on the selection part over training time]({picture})"] if picture else []
    for length in answer["lengths"]:
        lines += ["", f"## {length['length']}", "", words(answer, length)]
        lines += ["", f"Smallest gain worth having: {length['worthwhile']:{form}}."]
        lines[-1] += f" {pilot_in_words(answer, length['pilot'])}" if "pilot" in length else ""
        shown = {
            key: head for key, head in COLUMNS.items() if key != "to_pkd" or any(row[key] for row in length["rows"])
        }
        gains, costs = [], []
        for row in length["rows"]:
            alone = row["to_student"] or {"seeds": "-"}
            images = alone.get("over_images")
            gains.append({
                "method": row["method"],
                "options": "; ".join(", ".join(f"{k} {v}" for k, v in entry.items()) for entry in row["options"]) or "-",
                "seeds": str(len(row["metrics"])), "compared": str(alone["seeds"]),
                "mean": text(row["metric"], form), "deviation": text(row["deviation"], form),
                "to student alone": difference(row["to_student"], "+" + form),
                "over images": difference(images and alone, "+" + form, images),
                "p (Holm)": text(alone.get("p_holm"), ".2g"),
                **{head: difference(row[key], "+" + form) for key, head in shown.items()},
                "share of gap": text(row["share"], ".0%"), "could see": text(row["could_see"], form),
                "verdict": alone.get("words", "-"),
            })  # fmt: skip
            costs.append({
                "method": row["method"], "trials": str(row["trials"]),
                "s a step": text(row["seconds_per_step"], ".3g"), "s of training": text(row["train_seconds"], ".0f"),
                "s to the student alone's final metric": text(
                    row["seconds_to_student"], ".0f", "never" if row["timed"] else "-"
                ),
                "peak memory, MB": text(row["peak_memory_mb"], ".0f"), "fidelity": text(row["fidelity"], ".3f"),
            })  # fmt: skip
        lines += ["", *table(gains), "", *table(costs)]
        if by_class := table_of_classes(answer, length):
            lines += ["", f"{answer['metric_name']} of each class:", "", *by_class]
    return "\n".join(lines) + "\n"


def _draw(answer: Record) -> Figure:
    """Draw the curves of all methods, or where these are many, of the student alone, MSE, PKD and the best."""
    lengths = answer["lengths"]
    names = list(dict.fromkeys(row["method"] for length in lengths for row in length["rows"]))  # the student is first
    if len(names) > CURVES:  # the references, and the best
        best = sorted((row for length in lengths for row in length["rows"]), key=lambda row: -row["metric"])
        chosen = list(dict.fromkeys([st.STUDENT, st.MSE, st.PKD, *(row["method"] for row in best)]))
        names = [name for name in chosen if name in names][:CURVES]
    figure = Figure((5 * len(lengths) + 2, max(4.0, 0.22 * len(names))), layout="constrained")  # room for the legend
    shown = {}
    for panel, length in zip(figure.subplots(1, len(lengths), squeeze=False)[0], lengths):
        rows = [row for row in length["rows"] if row["method"] in names]
        timed = all(row["timed"] and row["pace"] for row in rows)
        for row in rows:
            along = [step * (row["pace"] / 60 if timed else 1) for step, _ in row["curve"]]
            i = names.index(row["method"])
            style = {"color": f"C{i % 10}", "linestyle": ("-", "--", ":")[i // 10 % 3]} if i else {"color": "black"}
            [shown[row["method"]]] = panel.plot(along, [metric for _, metric in row["curve"]], **style)
        panel.axhline(length["target"], color="grey", linestyle=":")
        xlabel = "minutes of training" if timed else "steps"
        panel.set(title=length["length"], xlabel=xlabel, ylabel=f"{answer['metric_name']}, selection")
    figure.legend(shown.values(), shown.keys(), fontsize="small", loc="outside right upper")
    return figure


def write_answer(folder: str | Path) -> Record:
    """Write `answer.json`, `answer.md` and `curves.png` of a study into its folder, and return the answer.

    Old files are replaced after all three are written, each of them whole; an error keeps the old ones. Numbers have six
    digits.
    Arrays of images are not committed: where they are missing and the metrics of both methods are those of the
    `answer.json` that is there, its intervals over images are kept.

    Raises:
        ValueError: see `read_study` and `summarise`; or a run's arrays do not give its metric.
    """
    study, runs = read_study(folder)
    scale, earlier = study.get("scale", 1), Path(folder, "answer.json")
    for run in runs:
        path = Path(folder, run["images"] or "")
        if path.is_file():
            with np.load(path) as arrays:
                run["draws"] = scale * st.resample(dict(arrays))
            if abs(run["draws"][0] - run["metric"]) > 0.002 * scale:  # printed metrics are rounded to 0.001
                raise ValueError(f"{path} gives {run['draws'][0]:.4f}, but its run's metric is {run['metric']}")
    exact = json.dumps(summarise(study, runs), allow_nan=False)
    answer = json.loads(exact, parse_float=lambda digits: float(f"{float(digits):.6g}"))
    if earlier.is_file():
        _keep_images(answer, json.loads(earlier.read_text("utf-8")))
    with write_whole(earlier) as numbers, write_whole(Path(folder, "answer.md")) as report:
        with write_whole(Path(folder, "curves.png")) as picture:
            numbers.write(f"{json.dumps(answer, indent=1)}\n".encode())
            report.write(markdown(answer).encode())
            _draw(answer).savefig(picture, format="png", dpi=80)
    return answer


def _keep_images(answer: Record, earlier: Record) -> None:
    new, old = ({(at["length"], r["method"]): r for at in a["lengths"] for r in at["rows"]} for a in (answer, earlier))
    same = {name for name in new.keys() & old.keys() if new[name]["metrics"] == old[name]["metrics"]}
    for length, method in same:
        for key in COMPARED:
            entry, kept = new[length, method][key], old[length, method].get(key)
            if entry and kept and (length, _reference(key, method)) in same:
                entry["over_images"] = entry["over_images"] or kept["over_images"]
