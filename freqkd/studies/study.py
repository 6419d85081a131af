"""Study files: teacher, student, metric, methods, search and budget of a comparison."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mmengine.config import Config

from freqkd.apis.export import is_distillation
from freqkd.apis.mixed_precision import PRECISIONS
from freqkd.models.options import check_options
from freqkd.studies.search import check_search
from freqkd.studies.split import Selection
from freqkd.studies.statistics import CONTROL, MOST_SEEDS, STUDENT
from freqkd.utils.checks import check_at_least, check_choice, check_flag, check_positive, check_whole
from freqkd.utils.compat import read_config
from freqkd.utils.paths import place_beside

POINTS = 5  # of every curve, and so the fewest steps of a run
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")


@dataclass(frozen=True)
class Metric:
    """What a study compares.

    Args:
        key: as the evaluator returns it, e.g. `"coco/bbox_mAP"` or `"mIoU"`; these two are taken without their rounding.
        name: in tables and figures; empty: the key.
        scale: 100 where the metric is in percent; None: 100 for the mean IoU, 1 for others.
        larger: whether larger is better; otherwise its negative is recorded.
        worthwhile: smallest gain worth having; None: a tenth of the gap between the teacher and the student alone.
    """

    key: str
    name: str = ""
    scale: float | None = None
    larger: bool = True
    worthwhile: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.key, str) or not self.key:
            raise ValueError(f"metric.key must be a name that the evaluator returns, e.g. 'mIoU', got {self.key!r}")
        usual = 100.0 if self.key.split("/")[-1] == "mIoU" else 1.0
        scale = usual if self.scale is None else self.scale
        check_positive("metric.scale", scale)
        if usual == 100 != scale:
            raise ValueError(f"metric.scale must be 100 for {self.key!r}, which is in percent, got {scale}")
        object.__setattr__(self, "scale", scale)
        check_flag("metric.larger", self.larger)
        check_at_least("metric.worthwhile", self.worthwhile or 0, 0)


@dataclass(frozen=True)
class Budget:
    """Length of a final run: a number of steps, or as many as take a method some seconds.

    Args:
        steps: of every method; with `like`, of that method.
        seconds: of every method.
        like: a method: all get the seconds that it takes for `steps`.

    >>> Budget.read("300s").of("mse", {"mse": 0.5}), Budget(steps=100, like="mse").of("cwd", {"mse": 0.5, "cwd": 1.0})
    ({'steps': 600, 'seconds': 300.0}, {'steps': 50, 'seconds': 50.0})
    """

    steps: int = 0
    seconds: float = 0.0
    like: str = ""

    @property
    def is_time(self) -> bool:
        """Whether all methods get as many seconds, and so steps that differ."""
        return bool(self.seconds or self.like)

    @classmethod
    def read(cls, value: Any) -> Budget:
        """Read a number of steps, or a text such as "300s".

        Raises:
            ValueError: it is neither, or less than `POINTS` steps.
        """
        found = re.fullmatch(r"(\d+)(s?)", str(value))
        if found is None:
            raise ValueError(f"budget must be a number of steps, or of seconds such as '300s', got {value!r}")
        check_whole("budget", int(found[1]), 1 if found[2] else POINTS)
        return cls(seconds=float(found[1])) if found[2] else cls(steps=int(found[1]))

    def of(self, method: str, pace: Mapping[str, float]) -> dict[str, Any]:
        """Return a method's `steps`, and the `seconds` where these were given; `pace` is each method's seconds per step."""
        seconds = round(self.steps * pace[self.like], 1) if self.like else self.seconds
        return (
            dict(steps=max(POINTS, round(seconds / pace[method])), seconds=seconds)
            if seconds
            else dict(steps=self.steps)
        )


def wants_head(term: Mapping[str, Any]) -> bool:
    """Say whether a term takes the head of its method's band head stage."""
    adapter = term.get("adapter")
    return isinstance(adapter, Mapping) and adapter.get("head") is True


@dataclass(frozen=True)
class Method:
    """A way to train the student; without terms it is the student alone.

    Args:
        terms: of a `Distiller`; a term without `weight` gets the ratio of the search's trials, one with `prompts=True` the file
            that the method's prompt stage writes, and an adapter with `head=True` the head of its band head stage.
        prompts: config of a prompt stage.
        head: config of a band head stage.
        options: further options of the `Distiller`, e.g. `dict(inherit=...)`.
        data: how the training images are drawn, `dict(sampler=dict(...), hooks=[dict(...), ...])`, with the hooks that the
            sampler needs; none: shuffled, without end.
    """

    terms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    prompts: str | None = None
    head: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stage(self) -> str | None:
        """The config of what is trained before the student."""
        return self.prompts or self.head

    def check(self, name: str) -> None:
        """Check a method of a study file.

        Raises:
            ValueError: its name or its terms cannot be used.
        """
        check_name("a method's name", name)
        if name == STUDENT or name.endswith(CONTROL):
            raise ValueError(
                f"methods.{name} must have another name: the study itself adds '{STUDENT}' and '*{CONTROL}'"
            )
        if not isinstance(self.terms, Mapping) or not all(isinstance(term, Mapping) for term in self.terms.values()):
            raise ValueError(f"methods.{name}.terms must be dict(loss_...=dict(...), ...), got {self.terms!r}")
        if not self.terms:
            raise ValueError(f"methods.{name}.terms must hold a term, got none; the student alone is in every study")
        data = self.data
        if data and not (
            isinstance(data, Mapping)
            and data.keys() == {"sampler", "hooks"}
            and isinstance(data["sampler"], Mapping)
            and isinstance(data["hooks"], (list, tuple))
            and all(isinstance(hook, Mapping) for hook in data["hooks"])
        ):
            raise ValueError(
                f"methods.{name}.data must be dict(sampler=dict(...), hooks=[dict(...), ...]), got {data!r}"
            )
        asked = [key for key, term in self.terms.items() if term.get("prompts") is True]
        if bool(asked) != bool(self.prompts):
            raise ValueError(
                f"methods.{name} must have prompts=CONFIG of a prompt stage and a term with prompts=True, which takes its "
                f"file, or neither, got prompts={self.prompts!r} and {len(asked)} such terms"
            )
        asked = [key for key, term in self.terms.items() if wants_head(term)]
        if bool(asked) != bool(self.head):
            raise ValueError(
                f"methods.{name} must have head=CONFIG of a band head stage and a term with adapter=dict(head=True), which "
                f"takes its head, or neither, got head={self.head!r} and {len(asked)} such terms"
            )
        if self.prompts and self.head:
            raise ValueError(
                f"methods.{name} must have one first stage, got prompts={self.prompts!r} and head={self.head!r}"
            )


@dataclass(frozen=True)
class Study:
    """A comparison; `read_study` makes it of a file.

    Attributes:
        name: of the folders of its results.
        student: config of the student alone.
        teacher: as a `Distiller` takes it. With `steps` the study trains it on the training part, and with both `steps` and
            `checkpoint` it writes that file, and a JSON file beside it that says how it was trained, unless it is there.
        metric, budget, selection: see there.
        methods: by name, the student alone and controls included.
        search: trials of the methods and of the student alone, see `check_search`; none: methods as given.
        seeds: number of final runs of each method; with `pilot` at most.
        pilot: number of first seeds whose deviation sets that number, see `statistics.pilot`; 0: `seeds` is the number.
        views: fixed views of every image, for a cached teacher; 0: no cache, and the augmentation of the config.
        amp: "bfloat16" or "float16", for students that train in mixed precision (`freqkd train --amp`); empty: as their
            config says.
        report: False for a study that explores: the selection part judges its final runs too, and the reported split is never
            read.
    """

    name: str
    student: Config
    teacher: Mapping[str, Any]
    metric: Metric
    methods: Mapping[str, Method]
    budget: Budget
    selection: Selection = field(default_factory=Selection)
    search: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    seeds: int = 3
    pilot: int = 0
    views: int = 4
    amp: str = ""
    report: bool = True

    def __post_init__(self) -> None:
        check_name("name", self.name)
        check_whole("seeds", self.seeds, 1, most=MOST_SEEDS)
        if self.pilot:
            check_whole("pilot", self.pilot, 2, most=MOST_SEEDS)
            if self.pilot >= self.seeds:
                raise ValueError(
                    f"pilot must be below seeds, the most runs that it may ask for, got {self.pilot} and {self.seeds}; name "
                    "more with --seeds, or 0 for no pilot"
                )
        check_whole("views", self.views, 0)
        check_flag("report", self.report)
        if self.amp:
            check_choice("amp", self.amp, PRECISIONS)
        teacher = self.teacher
        if not isinstance(teacher, Mapping) or "config" not in teacher or not teacher.keys() & {"checkpoint", "steps"}:
            raise ValueError(
                "teacher must be dict(config=..., checkpoint=...), with steps=... for one that the study trains, "
                f"got {teacher!r}"
            )
        if "cache" in teacher:
            raise ValueError(f"teacher.cache must be left out, because views= makes one, got {teacher['cache']!r}")
        if "steps" in teacher:
            check_whole("teacher.steps", teacher["steps"], POINTS)
        if is_distillation(self.student):
            raise ValueError(
                f"student must be the config of the student alone, got the distillation {self.student.filename}"
            )
        check_search(self.search, {name: method.terms for name, method in self.methods.items() if method.terms})

    def trials(self, method: str) -> Sequence[Mapping[str, Any]]:
        """Return the options that the search tries for a method; none without a search."""
        return self.search.get("student" if method == STUDENT else "methods", ())


def read_study(path: str, methods: Collection[str] = (), **changes: Any) -> Study:
    """Read and check a study file, whose names are the attributes of `Study`, `term` and `control`.

    `term` has the options of all terms that do not state them; `control` names a method that is also run with a teacher of
    random weights. Names that start with "_" are the file's own.

    Args:
        path: the file.
        methods: the methods and controls that run beside the student alone; none: all.
        changes: in place of what the file says, where they are not None.

    Raises:
        ValueError: a name is missing, unknown or wrong.
    """
    read = read_config(path)
    raw = {key: value for key, value in read.to_dict().items() if key[0] != "_" and key != "custom_imports"}
    raw |= {key: value for key, value in changes.items() if value is not None}
    control, shared = raw.pop("control", None), raw.pop("term", None) or {}
    if "model" in raw:
        raise ValueError(
            f"{path} is the config of a training, not a study; for a distillation: freqkd compare --quick {path}"
        )
    check_options(f"study {path}, beside term and control,", Study, raw)
    given = raw["methods"]
    if not isinstance(given, Mapping):
        raise ValueError(f"methods must be a dict of methods by name, dict(mse=dict(terms=dict(...))), got {given!r}")
    if not isinstance(shared, Mapping):
        raise ValueError(f"term must be a dict of options of all terms, got {shared!r}")
    place_beside(_named_files(raw), os.path.dirname(str(read.filename)))
    found = {name: _make(f"methods.{name}", Method, method) for name, method in given.items()}
    for name, method in found.items():
        method.check(name)
        found[name] = replace(method, terms={key: {**shared, **term} for key, term in method.terms.items()})
    if control is not None:
        check_choice("control", control, found)
        found[control + CONTROL] = found[control]
    for name in methods:
        check_choice("--methods", name, found)
    chosen = {name: method for name, method in found.items() if not methods or name in methods}
    parts = dict(
        student=read_config(raw["student"]),
        metric=_make("metric", Metric, raw["metric"]),
        methods={STUDENT: Method(), **chosen},
        budget=Budget.read(raw["budget"]),
        selection=_make("selection", Selection, raw.get("selection") or {}),
        search=raw.get("search") or {},
    )
    return Study(**(raw | parts))


def _named_files(raw: Mapping[str, Any]) -> Iterator[tuple[Any, str]]:
    """Yield the dicts and keys of a study file that name files, as `named_files` does of a training's config."""
    yield raw, "student"
    for key in ("config", "checkpoint"):
        yield raw["teacher"], key
    for method in raw["methods"].values():
        yield method, "prompts"
        yield method, "head"


def _make(name: str, kind: type, options: Any) -> Any:
    if not isinstance(options, Mapping):
        raise ValueError(f"{name} must be a dict, got {options!r}")
    check_options(name, kind, options)
    return kind(**options)


def check_name(what: str, name: Any) -> None:
    """Check a name that becomes a part of file names.

    Raises:
        ValueError: it has other characters.

    >>> check_name("name", "a/b")
    Traceback (most recent call last):
    ...
    ValueError: name must be made of letters, digits, '.', '+' and '-', because it names files, got 'a/b'
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f"{what} must be made of letters, digits, '.', '+' and '-', because it names files, got {name!r}"
        )
