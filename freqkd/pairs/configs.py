"""Config files of a distillation: the student alone, the prompt stage where a method has prompts, the distillation."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from freqkd.pairs.generated import stamp, write_files
from freqkd.pairs.source import Code, source
from freqkd.pairs.terms import Pair, Term

HERE = "{{ fileDirname }}"  # MMEngine replaces it by the folder of the config
PROMPT_SHARE = {"max_epochs": 10, "max_iters": 40}  # the prompt stage has a 10th, a 40th of the teacher's length
WIDTHS = dict(channels="teacher_channels", num_levels="num_levels")  # a loss's arguments, as settings of the config
FURTHEST = 3  # folders up, beyond which a path is written as absolute
MONITOR = 50  # iterations between lines that say how strongly each term pulls


@dataclass
class Written:
    """The files of a distillation, in the order in which they are run.

    Attributes:
        student: config of the student alone.
        distillation: config of the distillation.
        prompts: config of the prompt stage; None without one.
        teacher: config of the teacher, where data or heads had to be set; None where its own is used.
        kept: files that were changed by hand and kept.
        notes: sentences that the user should read.
    """

    student: Path
    distillation: Path
    prompts: Path | None = None
    teacher: Path | None = None
    kept: Sequence[Path] = ()
    notes: Sequence[str] = ()


@dataclass
class Changes:
    """What configs of both networks change in their bases: data, classes, heads.

    Attributes:
        student: top-level settings of the student's config.
        teacher: top-level settings of the teacher's.
        words: sentences about them, for comments.
        notes: sentences that the user should read, too; they are printed.
        files: what is written beside the configs, by name.
    """

    student: dict[str, Any] = field(default_factory=dict)
    teacher: dict[str, Any] = field(default_factory=dict)
    words: Sequence[str] = ()
    notes: Sequence[str] = ()
    files: Mapping[str, str] = field(default_factory=dict)


def write_configs(
    pair: Pair,
    terms: Sequence[Term],
    checkpoint: str,
    out: Path,
    changes: Changes | None = None,
    inherit: bool = False,
    overwrite: bool = False,
    keep: bool = False,
) -> Written:
    """Write the configs of a distillation into a folder.

    Args:
        pair: student and teacher.
        terms: the terms of the distillation.
        checkpoint: file or address of the teacher's weights.
        out: the folder; it is made where it is missing.
        changes: settings of both configs; None: they are used as they are.
        inherit: whether the student starts from the teacher's weights where the shapes allow it.
        overwrite: write files anew that were changed by hand, see `write_files`.
        keep: leave such files as they are where they are of the same arguments; else they are refused.

    Raises:
        ValueError: nothing can be inherited, or a file was changed by hand.
    """
    changes = changes or Changes()
    written = Written(out / "student.py", out / "distillation.py", notes=changes.notes)
    files = {out / name: text for name, text in changes.files.items()}
    files[written.student] = stamp(_student(pair, changes, out))
    if changes.teacher:
        written.teacher = out / "teacher.py"
        files[written.teacher] = stamp(_teacher(pair, changes, out))
    teacher = dict(
        config=place_of(pair.teacher.name, out) if written.teacher is None else f"{HERE}/teacher.py",
        checkpoint=checkpoint if "://" in checkpoint else place_of(checkpoint, out),
    )
    prompted = [term for term in terms if term.prompts is not None]
    if prompted:
        written.prompts = out / "prompts.py"
        base = _base(pair.teacher.name, out) if written.teacher is None else "./teacher.py"
        files[written.prompts] = stamp(_prompts(pair, prompted[0], teacher, base, out))
    files[written.distillation] = stamp(_distillation(pair, terms, teacher, out, inherit))
    written.kept = write_files(files, overwrite, keep)
    return written


def instead(base: Mapping[str, Any], key: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a dict that replaces what a base has under a key; MMEngine keeps a `_delete_` that has nothing to delete.

    >>> instead(dict(a=dict(b=1)), "a", dict(c=2)), instead({}, "a", dict(c=2))
    ({'_delete_': True, 'c': 2}, {'c': 2})
    """
    return dict(_delete_=True, **value) if key in base else dict(value)


def _base(name: str, out: Path) -> str:
    """Return a config's name as an entry of `_base_`, relative to the folder."""
    return name if "::" in name else _relative(name, out)


def place_of(name: str, out: Path) -> str:
    """Return the name of a config or file as it is found from the folder, wherever the folder lies."""
    path = name if "::" in name else _relative(name, out)
    return path if "::" in name or os.path.isabs(path) else f"{HERE}/{path}"


def _relative(name: str, out: Path) -> str:
    """Return a path relative to a folder, or absolute where the two have little in common."""
    path = os.path.relpath(name, out)
    return os.path.abspath(name) if path.count("..") > FURTHEST else path


def title(name: str) -> str:
    """Return a config's name without its folder and ending.

    >>> title("mmdet::retinanet/retinanet_r50_fpn_2x_coco.py")
    'retinanet_r50_fpn_2x_coco'
    """
    return os.path.splitext(os.path.basename(name.split("::")[-1]))[0]


def _file(what: str, lines: Sequence[str], base: str, settings: Mapping[str, Any], comments: Mapping[str, str]) -> str:
    """Return the text of a config: what it is, how it is run, its base, its settings."""
    text = "\n".join([f'"""{what}', "", *lines, '"""', f"_base_ = [{base!r}]"])
    for key, value in settings.items():
        if key in comments:
            text += f"\n# {comments[key]}"
        below = {name.partition(".")[2]: words for name, words in comments.items() if name.startswith(f"{key}.")}
        text += f"\n{key} = {source(value, 0, below)}"
    return text + "\n"


def _run(out: Path, name: str, command: str = "train", more: str = "") -> str:
    return f"    freqkd {command} {out / name}{more}"


def _student(pair: Pair, changes: Changes, out: Path) -> str:
    settings = {**changes.student, "work_dir": f"{HERE}/runs/student"}
    said = [*changes.words, *changes.notes]
    words = [*said, *([""] if said else []), _run(out, "student.py")]
    comments = {"work_dir": "logs and checkpoints", "auto_scale_lr": "to this run's images in a step"}
    return _file(
        f"The student alone, {title(pair.student.name)}.", words, _base(pair.student.name, out), settings, comments
    )


def _teacher(pair: Pair, changes: Changes, out: Path) -> str:
    words = ["Its checkpoint must be of these classes. To train one:", "", _run(out, "teacher.py")]
    settings = {**changes.teacher, "work_dir": f"{HERE}/runs/teacher"}
    return _file(f"The teacher, {title(pair.teacher.name)}.", words, _base(pair.teacher.name, out), settings, {})


def _length(config: Config) -> tuple[str, int]:
    """Return by what a config counts its length, and the length of a prompt stage."""
    unit = "max_iters" if (config.get("train_cfg") or {}).get("max_iters") else "max_epochs"
    length = int((config.get("train_cfg") or {}).get(unit) or 10)
    return unit, max(1, round(length / PROMPT_SHARE[unit]))


def _prompts(pair: Pair, term: Term, teacher: Mapping[str, Any], base: str, out: Path) -> str:
    config = pair.teacher.config
    unit, length = _length(config)
    loop = "IterBasedTrainLoop" if unit == "max_iters" else "EpochBasedTrainLoop"
    counted = dict(by_epoch=False) if unit == "max_iters" else dict(convert_to_iter_based=True)
    assert term.prompts is not None
    optimizer = dict(type="Adam", lr=1e-2, weight_decay=1e-3)
    inner = {**term.prompts, "prompts": {**term.prompts["prompts"], "num_prompts": 2, "preset": "paper"}}
    settings = {
        "model": dict(_delete_=True, type="freqkd.PromptTuner", teacher=dict(teacher), **inner),
        unit: length,
        "train_cfg": instead(config, "train_cfg", dict(type=loop, **{unit: Code(unit)}, val_interval=Code(unit))),
        "optim_wrapper": instead(config, "optim_wrapper", dict(type="OptimWrapper", optimizer=optimizer)),
        "param_scheduler": [dict(type="CosineAnnealingLR", eta_min=1e-6, end=Code(unit), T_max=Code(unit), **counted)],
        **({"auto_scale_lr": dict(enable=False)} if config.get("auto_scale_lr") else {}),
        "custom_hooks": [dict(type="freqkd.PromptFileHook"), dict(type="freqkd.PromptStatisticsHook")],
        "work_dir": f"{HERE}/runs/prompts",
    }
    comments = {
        "model.prompts": "of the teacher's maps; the distillation reads channels, levels and tap from the prompt file",
        unit: f"one part in {PROMPT_SHARE[unit]} of the teacher's own length",
        "custom_hooks": "writes runs/prompts/prompts.pth, and says what the masks have learnt",
    }
    words = ["It trains prompts on the frozen teacher; run it first:", "", _run(out, "prompts.py")]
    return _file(f"The prompt stage of {title(pair.teacher.name)}.", words, base, settings, comments)


def _distillation(pair: Pair, terms: Sequence[Term], teacher: Mapping[str, Any], out: Path, inherit: bool) -> str:
    parts = pair.inheritable
    if inherit and not parts:
        raise ValueError(
            "--inherit must find parts of equal shapes in both networks, and neck and heads of "
            f"{pair.student.name} and {pair.teacher.name} all differ; leave it out"
        )
    model: dict[str, Any] = dict(
        _delete_=True, type="freqkd.Distiller", student=Code("{{_base_.model}}"), teacher=dict(teacher)
    )
    if inherit:
        model["inherit"] = parts
    model["monitor"] = MONITOR
    model["terms"] = {term.name: _options(term, _widths(terms)) for term in terms}
    comments = {f"model.terms.{term.name}.{key}": words for term in terms for key, words in term.reasons.items()}
    comments["model.inherit"] = "parts of equal shapes, which start from the teacher's weights"
    comments["model.monitor"] = "every so many iterations, the log says how strongly each term pulls"
    if parts and not inherit:
        offer = f"inherit={parts!r},  # equal shapes in both networks: they would start from the teacher's weights"
        comments["model.monitor"] = f"{offer}\n    # {comments['model.monitor']}"
    settings = {**_widths(terms), "model": model, "work_dir": f"{HERE}/runs/distillation"}
    words = [
        *[f"{term.name}: {term.method}." for term in terms],
        "",
        *([_run(out, "prompts.py", more="          # first")] if any(term.prompts for term in terms) else []),
        _run(out, "distillation.py"),
        _run(out, "distillation.py", "test", f" {out}/runs/distillation/CHECKPOINT.pth"),
        "",
        "With a loss on feature maps and AdamW, two to 32 times the student's learning rate was best on three small data",
        "sets (docs/comparison.md), so try a higher one, too: --cfg-options optim_wrapper.optimizer.lr=...",
    ]
    what = f"Distillation of {title(pair.student.name)} from {title(pair.teacher.name)}."
    return _file(what, words, "./student.py", settings, comments)


def _widths(terms: Sequence[Term]) -> dict[str, Any]:
    """Return the settings that say the teacher's channels and the number of levels, where a loss takes them, too."""
    for term in terms:
        if "channels" in term.options["loss"]:
            return {name: term.options["loss"][given] for given, name in WIDTHS.items()}
    return {}


def _options(term: Term, widths: Mapping[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = dict(type="freqkd.DistillTerm", **term.options)
    for part in ("align", "loss"):
        if widths and part in options:
            named = {**WIDTHS, **{name: name for name in WIDTHS.values()}}
            known = {key: Code(named[key]) for key in options[part] if key in named}
            options[part] = {**options[part], **known}
    if term.prompts is not None:
        options["prompts"] = f"{HERE}/runs/prompts/prompts.pth"
        # The prompt file says the teacher's channels and the number of levels.
        align = options.get("align")
        if align is not None and align["type"] == "freqkd.ConvAlign":
            said = ("teacher_channels", "num_levels")
            options["align"] = {key: value for key, value in align.items() if key not in said}
    return options
