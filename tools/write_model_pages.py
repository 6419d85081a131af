"""Model pages: `model-index.yml`, `configs/README.md`, and `metafile.yml` and `README.md` of every folder of configs.

Written from the configs, and from configs/papers.yml for what papers report. `--check` writes nothing, and fails where a page
is not what would be written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from freqkd.utils.compat import read_config

ROOT = Path(__file__).resolve().parent.parent
DATA = {
    "coco": "COCO",
    "cityscapes": "Cityscapes",
    "ade20k": "ADE20K",
    "blood-cells": "blood cells",
    "road-scenes": "road scenes",
    "aquarium": "aquarium",
    "facades": "facades",
}
FULL = ("coco", "cityscapes", "ade20k")
NOT_RUN = "not yet run here"
WRITTEN = "<!-- Written by tools/write_model_pages.py. -->\n\n"
REPORTED = """Reported: box AP on COCO val2017, mIoU on Cityscapes val. Data, protocols and what else there is for a pair:
[configs/README.md](../README.md)."""
MEASURED = """What was measured on them: [docs/benchmarks.md](../../docs/benchmarks.md) and
[docs/comparison.md](../../docs/comparison.md)."""
PROTOCOLS = """Papers use four protocols on Cityscapes, whose numbers must not be mixed: mmseg's with crops of 512x512 and 40k
iterations (MGD, FreeKD); 512x1024 and 40k, with another program's evaluation (CIRKD, DIST, MasKD); mmseg's with 512x1024 and
80k, which is that of PSPNet and DeepLabV3 here (CWD in mmrazor, CanKD); and long training with equal time (arXiv 2604.25530).
"""
# Columns of the overview: title, and the folders of their configs with the beginning of the name.
COLUMNS = {
    "details": ("freekd/freekd-details_", "freekd/freekd-whitened_"),
    "stage 1": ("freekd/prompts_",),
    "FreeKD": ("freekd/freekd_",),
    "MSE": ("mse/mse_",),
    "PKD": ("pkd/pkd_",),
    "head": ("crosskd/", "ld/", "kd/", "quality-focal-kd/", "binary-kd/", "cwd/", "dist/"),
}


@dataclass(frozen=True)
class Entry:
    """A config and what its name says.

    Attributes:
        path: relative to the repository.
        method: first word of the name.
        teacher: the teacher, or empty.
        student: the student, or the network of a baseline, or empty.
        schedule: batch and length.
        data: the data set.
    """

    path: Path
    method: str
    teacher: str
    student: str
    schedule: str
    data: str

    @property
    def folder(self) -> str:
        """The folder of its configs."""
        return self.path.parent.name

    @property
    def name(self) -> str:
        """The name by which the tools find it from anywhere."""
        return f"freqkd::{self.folder}/{self.path.name}"

    @property
    def pair(self) -> str:
        """The pair's key."""
        return f"{self.teacher}_{self.student}_{self.data}"


def parse(path: Path) -> Entry:
    """Return what a config's name says.

    >>> entry = parse(Path("configs/kd/kd_logits_gfl-r101_gfl-r50_8xb2-1x_coco.py"))
    >>> entry.teacher, entry.student, entry.schedule, entry.data
    ('gfl-r101', 'gfl-r50', '8xb2-1x', 'coco')
    >>> parse(Path("configs/baselines/retinanet_r50_8xb2-2x_coco.py")).student
    'retinanet-r50'
    """
    words = path.stem.split("_")
    schedule, data = words[-2:]
    if path.parent.name == "baselines":
        return Entry(path, "baselines", "", "-".join(words[:-2]), schedule, data)
    networks = words[2:-2]
    return Entry(path, words[0], networks[0], networks[1] if len(networks) > 1 else "", schedule, data)


def find_entries(root: Path) -> list[Entry]:
    """Return all configs, full-size ones first, in the order of their names."""
    entries = [parse(path.relative_to(root)) for path in root.glob("configs/[!_]*/*.py")]
    return sorted(entries, key=lambda one: (one.data not in FULL, list(DATA).index(one.data), str(one.path)))


def describe_terms(model: Mapping[str, Any]) -> str:
    """Return losses, taps and weights of a config's model in a few words.

    >>> loss = dict(type="freqkd.FreeKDLoss", preset="paper")
    >>> term = dict(student_tap="neck", loss=loss, weight=dict(ratio=0.5))
    >>> describe_terms(dict(type="freqkd.Distiller", terms=dict(loss_freekd=term)))
    '`FreeKDLoss` (paper) at `neck`, ratio 0.5'
    """
    if model["type"] == "freqkd.PromptTuner":
        prompts = model["prompts"]
        return f"prompts ({prompts.get('preset', 'paper')}, T = {prompts['num_prompts']}) at `{model['tap']}`"
    if model["type"] == "freqkd.BandHeadTuner":
        return f"second head on the details at `{model.get('tap', 'neck')}`, depth {model['depth']}"
    words = []
    for term in model.get("terms", {}).values():
        loss, weight = term["loss"], term.get("weight", 1.0)
        kinds = [loss[key] for key in ("preset", "divergence") if key in loss]
        kind = "".join(f" ({one['type'] if isinstance(one, Mapping) else one})" for one in kinds)
        share = f"ratio {weight['ratio']:g}" if isinstance(weight, Mapping) else f"weight {weight:g}"
        words.append(f"`{loss['type'].split('.')[-1]}`{kind} at `{term.get('student_tap', 'neck')}`, {share}")
    if model.get("inherit"):
        words.append(f"starts from the teacher's {', '.join(model['inherit'])}")
    return "; ".join(words)


def reported(facts: Mapping[str, Any], entry: Entry) -> str:
    """Return what is reported for a config's method and pair, with its source; "-" where nothing is known."""
    for fact in facts["reported"]:
        if (fact["method"], fact["teacher"], fact["student"], fact["data"]) == (
            entry.method,
            entry.teacher,
            entry.student,
            entry.data,
        ):
            return f"{fact['result']} ({fact['source']})"
    return "-"


def evaluation(config: Any) -> str:
    """Return how a segmenter is evaluated, in words."""
    student = config.model.get("student", config.model)
    size = "x".join(map(str, student.data_preprocessor.size))
    test = student.test_cfg
    if test.mode == "whole":
        return f"crops of {size}; tested on whole images, one scale"
    window, stride = ("x".join(map(str, test[key])) for key in ("crop_size", "stride"))
    return f"crops of {size}; tested by windows of {window}, stride {stride}, one scale"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table.

    >>> print(table(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    lines = [header, ["---"] * len(header), *rows]
    text = ["| " + " | ".join(line) + " |" for line in lines]
    text[1] = text[1].replace(" ", "")
    return "\n".join(text)


def _row(entry: Entry, models: Mapping[Entry, Any]) -> list[str]:
    pair = " to ".join(name for name in (entry.teacher, entry.student) if name)
    return [pair, f"{DATA[entry.data]}, {entry.schedule}", describe_terms(models[entry]) or "-"]


def _command(entry: Entry) -> str:
    return f"[`freqkd train {entry.name}`]({entry.path.name})"


def method_page(folder: str, entries: Sequence[Entry], facts: Mapping[str, Any], models: Mapping[Entry, Any]) -> str:
    """Return the README of a folder of configs."""
    method = facts["methods"][folder]
    text = f"{WRITTEN}# {method['title']}\n\n"
    if "paper" in method:
        text += f"[arXiv {method['paper']}](https://arxiv.org/abs/{method['paper']})\n\n"
    text += f"{method['note'].strip()}\n\n" if "note" in method else ""
    full = [one for one in entries if one.data in FULL]
    if full:
        rows = [[*_row(one, models), reported(facts, one), NOT_RUN, _command(one)] for one in full]
        header = ["pair", "data, schedule", "terms", "reported", "ours", "command and config"]
        text += f"{table(header, rows)}\n\n{REPORTED}\n\n"
    small = [one for one in entries if one.data not in FULL]
    if small:
        rows = [[*_row(one, models), _command(one)] for one in small]
        text += (
            f"On the small data sets:\n\n{table(['pair', 'data, schedule', 'terms', 'command and config'], rows)}\n\n"
        )
        text += f"{MEASURED}\n\n"
    return f"{text.rstrip()}\n"


def metafile(folder: str, entries: Sequence[Entry], facts: Mapping[str, Any], models: Mapping[Entry, Any]) -> str:
    """Return the metafile of a folder of configs, in the form that MMEngine and mim read."""
    method = facts["methods"][folder]
    collection: dict[str, Any] = dict(Name=method["title"], README=f"configs/{folder}/README.md")
    if "paper" in method:
        collection["Paper"] = dict(URL=f"https://arxiv.org/abs/{method['paper']}", Title=method["title"])
    found = []
    for one in entries:
        facts_of_one = {"Training Data": DATA[one.data], "Schedule": one.schedule}
        if one.teacher:
            facts_of_one["Teacher"] = models[one]["teacher"]["config"]
        found.append(
            {
                "Name": one.path.stem,
                "In Collection": method["title"],
                "Config": str(one.path),
                "Metadata": facts_of_one,
            }
        )
    return f"# Written by tools/write_model_pages.py.\n{_yaml(dict(Collections=[collection], Models=found))}"


def _yaml(value: Any) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, width=1000, allow_unicode=True))


def overview(entries: Sequence[Entry], facts: Mapping[str, Any], configs: Mapping[Entry, Any]) -> str:
    """Return the page of all full-size pairs."""
    text = f"""{WRITTEN}# Full-size pairs

```
freqkd train freqkd::METHOD/FILE.py          # from anywhere; in a clone also: python tools/train.py configs/METHOD/FILE.py
freqkd test freqkd::METHOD/FILE.py CHECKPOINT
```

Data lie in `data/` ([data/README.md](../data/README.md)); teachers are fetched from the addresses in `_base_/teachers/`. Every
config takes a step of training on real images in `make test-configs`. Nobody has trained these to the end here: no result is
claimed. The numbers are what mmdet and mmseg publish for teacher and student alone; what papers report for a pair stands on the
pages of the methods. FreeKD has two stages: stage 1 first.

"""
    for data in FULL:
        pairs = dict.fromkeys(one.pair for one in entries if one.data == data and one.student and one.teacher)
        rows = []
        for key in facts["pairs"]:
            if key not in pairs:
                continue
            mine = [
                one for one in entries if one.pair == key or (not one.student and key.startswith(f"{one.teacher}_"))
            ]
            mine = [one for one in mine if one.data == data]
            known = facts["pairs"][key]
            first = next(one for one in mine if one.student)
            rows.append(
                [
                    f"{first.teacher} {known['teacher']} to {first.student} {known['student']}",
                    first.schedule,
                    _student(ROOT / first.path),
                    *(_cell(mine, starts, known.get("empty", {}).get(title)) for title, starts in COLUMNS.items()),
                ]
            )
        text += f"## {DATA[data]}\n\n{table(['teacher to student', 'schedule', 'student alone', *COLUMNS], rows)}\n\n"
        if data != "coco":
            rows = [
                [key.rsplit("_", 1)[0].replace("_", " to "), evaluation(configs[one])]
                for key in facts["pairs"]
                if key in pairs
                for one in entries
                if one.pair == key and one.method == "mse"
            ]
            text += f"{table(['pair', 'protocol'], rows)}\n\n"
    return text + PROTOCOLS


def _student(path: Path) -> str:
    """Return where the student alone is trained: the first base of a distillation."""
    base = next(line.strip(" ',") for line in path.read_text("utf-8").splitlines() if line.startswith("    '"))
    if "::" in base:
        return f"`{base}`"
    return f"[{Path(base).stem}](baselines/{Path(base).name})"


def _cell(entries: Sequence[Entry], starts: Sequence[str], why: str | None) -> str:
    found = [one for one in entries if f"{one.folder}/{one.path.name}".startswith(tuple(starts))]
    links = [f"[{one.method}]({one.folder}/{one.path.name})" for one in found]
    if not links:
        return f"none: {why}" if why else "none"
    return ", ".join(links)


def pages(root: Path = ROOT, read: Callable[[Path], Any] = read_config) -> dict[str, str]:
    """Return all pages by their path in the repository.

    Args:
        root: of the repository.
        read: reads a config.
    """
    entries = find_entries(root)
    facts = yaml.safe_load((root / "configs/papers.yml").read_text("utf-8"))
    configs = {one: read(root / one.path) for one in entries}
    models = {one: config.model.to_dict() for one, config in configs.items()}
    folders = list(dict.fromkeys(sorted(one.folder for one in entries)))
    for folder in folders:
        if "title" not in (facts["methods"].get(folder) or {}):
            raise SystemExit(f"configs/papers.yml: methods misses {folder}; add a line `  {folder}: {{title: ...}}`")
    written = {"configs/README.md": overview([one for one in entries if one.data in FULL], facts, configs)}
    for folder in folders:
        mine = [one for one in entries if one.folder == folder]
        written[f"configs/{folder}/README.md"] = method_page(folder, mine, facts, models)
        written[f"configs/{folder}/metafile.yml"] = metafile(folder, mine, facts, models)
    index = _yaml(dict(Import=[f"configs/{folder}/metafile.yml" for folder in folders]))
    written["model-index.yml"] = f"# Written by tools/write_model_pages.py.\n{index}"
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a page is out of date")
    check = parser.parse_args(arguments).check
    old = []
    for name, text in pages().items():
        path = ROOT / name
        if not path.exists() or path.read_text("utf-8") != text:
            old.append(name)
            if not check:
                path.write_text(text, "utf-8")
    if check and old:
        print(f"out of date: {', '.join(old)}; run python tools/write_model_pages.py")
    return 1 if check and old else 0


if __name__ == "__main__":
    sys.exit(main())
