"""Jobs of a study: their configs, their files, and what must fit before the first of them starts."""

from __future__ import annotations

import copy
import fcntl
import hashlib
import json
import os
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from freqkd.adapters import HeadAdapter
from freqkd.apis.mixed_precision import set_precision
from freqkd.apis.preflight import check_checkpoint, check_initial_weights, check_model
from freqkd.datasets.fixed_views import canonical
from freqkd.studies.answer import length_of, pilot_in_words, read_study, smallest_gain
from freqkd.studies.jobs import Job
from freqkd.studies.run import HEAD_FILE, MADE_OF, RUN, make_config, set_purpose, write_json
from freqkd.studies.search import SEED, apply_trial, name_trial
from freqkd.studies.split import hold_out, training_images
from freqkd.studies.statistics import CONTROL, STUDENT, pilot
from freqkd.studies.study import POINTS, Study, wants_head
from freqkd.teacher.teacher import build_network
from freqkd.utils.checkpoints import hash_weights, read_checkpoint, weights_of, write_atomic
from freqkd.utils.compat import read_config
from freqkd.utils.files import check_writable, write_whole
from freqkd.utils.paths import find_file, initial_weights
from freqkd.utils.randomness import forked_randomness

CALIBRATION = 20  # steps


class Plan:
    """A study, the folders of its results, and its jobs.

    Args:
        study: what is compared.
        results: folder of the small files that last: a JSON of each run, the study's own, the answer.
        work: folder of everything else.
    """

    def __init__(self, study: Study, results: str | Path, work: str | Path) -> None:
        self.study, self.results, self.work = study, Path(results, study.name), Path(work, study.name)
        self.trained = self.work / "teacher" / "teacher" / "student.pth"  # where the study trains its teacher
        self.checkpoint = find_file(str(study.teacher.get("checkpoint") or self.trained))
        self.predictions = str((self.work / "teacher-predictions.npz").resolve())
        self.teacher = copy.deepcopy(read_config(study.teacher["config"]))
        self.network = self.teacher.model.get("student") or self.teacher.model
        images = training_images(study.student)[0]
        self.held = study.selection.draw(images)
        self._compared = [study.metric.key, study.metric.larger, images, sorted(self.held)]
        self._hashes: dict[tuple[str, int], str] = {}  # of checkpoints, by path and time
        self.stages = {name: read_config(method.stage) for name, method in study.methods.items() if method.stage}

    @cached_property
    def base(self) -> Config:
        """The student's config with the parts of the training split, and the views that all methods share."""
        config = copy.deepcopy(self.study.student)
        hold_out(config, self.held, self.work / "split")
        if self.study.amp:
            set_precision(config, self.study.amp)
        if self.study.views:
            loader = config.train_dataloader
            _pad_to_one_size(loader, config.model.get("data_preprocessor") or {})
            loader.dataset = dict(type="freqkd.FixedViews", views=self.study.views, dataset=loader.dataset)
        return config

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Names for what the runs of each method are made of, beside budget, options and seed; a search may grow."""
        study, teacher = self.study, {key: value for key, value in self.study.teacher.items() if key != "config"}
        if "steps" in teacher:
            teacher.pop("checkpoint", None)
        else:
            teacher["checkpoint"] = self._weights(self.checkpoint)
        configs = [_content(config) for config in (study.student, self.teacher)]
        shared = [*configs, teacher, vars(study.selection), study.views, study.report, study.amp, *self._compared]
        found = {}
        for name, method in study.methods.items():
            about = {key: value for key, value in vars(method).items() if value and key not in ("prompts", "head")}
            stage = _content(self.stages[name]) if name in self.stages else None
            found[name] = self._digest([*shared, about, stage])
        return found

    def _digest(self, parts: Any) -> str:
        """Return a name for parts of configs, the same wherever data, results and the work dir lie."""
        dataset = self.study.student.train_dataloader.dataset
        while "data_root" not in dataset and dataset.get("dataset"):
            dataset = dataset.dataset
        text, data = canonical(parts), dataset.get("data_root") or Path.cwd()
        for folder in map(str, (self.work.resolve(), self.work, self.results.resolve(), self.results, data)):
            if os.sep in folder:  # a single word may stand for something else, too
                text = re.sub(rf'(?<="){re.escape(folder)}(?:(?<=/)|(?=[/"]))', "", text)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _weights(self, path: str) -> str:
        """Return the hash of a checkpoint's weights, read once as long as the file stays."""
        known = (path, Path(path).stat().st_mtime_ns if Path(path).exists() else 0)
        if known not in self._hashes:
            self._hashes[known] = hash_weights(weights_of(read_checkpoint(path)))
        return self._hashes[known]

    def about(self, *dropped: str, **new: Any) -> dict[str, Any]:
        """Return what is known of the study beside its runs, after adding to it; parts of parts are added, too.

        Args:
            dropped: parts to forget before.
            new: parts to add; none: nothing is written.
        """
        path = self.results / "STUDY.json"
        if not new:
            return json.loads(path.read_text("utf-8")) if path.exists() else {}
        self.results.mkdir(parents=True, exist_ok=True)
        folder = os.open(self.results, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)  # another comparison may add to it
            known = self.about()
            kept = {key: value for key, value in known.items() if key not in ("worthwhile", *dropped)}
            found = _merge(kept, dict(study=self.study.name, **self._metric) | new)
            if found != known:
                write_json(found, path)
        finally:
            os.close(folder)
        return found

    @property
    def _metric(self) -> dict[str, Any]:
        metric = self.study.metric
        title = (metric.name or metric.key) + ("" if self.study.report else ", selection part")
        worth = {} if metric.worthwhile is None else dict(worthwhile=metric.worthwhile)
        return dict(metric_name=title, scale=metric.scale) | worth

    def renew(self) -> None:
        """Write how the metric is shown as the study says it now, where the study has begun.

        Raises:
            ValueError: the smallest gain worth having is another one than when the runs were made.
        """
        known, runs = self.about(), sorted(self.results.glob("*_seed*.json"))
        if runs and known.get("worthwhile") != self.study.metric.worthwhile:
            raise ValueError(
                f"metric.worthwhile must be {known.get('worthwhile')}, as before the runs in {self.results}, "
                f"got {self.study.metric.worthwhile}; it is chosen before the first run, so give the study another name"
            )
        if known:
            self.about(study=self.study.name)

    def check(self) -> None:
        """Find what is wrong with the study before anything is written.

        Raises:
            ValueError: a method does not fit its networks, or was changed since its runs were made.
            CheckpointError: the teacher's checkpoint cannot be read.
        """
        check_writable("results", self.results, "--results-dir")
        check_writable("work dir", self.work, "--work-dir")
        if self.study.amp:
            try:
                set_precision(copy.deepcopy(self.study.student), self.study.amp)
            except ValueError:
                raise ValueError(
                    f"amp must be 'bfloat16' on a machine without an accelerator, got {self.study.amp!r}; or leave it out"
                ) from None
        self._check_recipe()
        prints = self.fingerprints
        for path in (*self.results.glob("*.json"), *self.results.glob("search/*.json")):
            record = json.loads(path.read_text("utf-8"))
            name = record.get("method")
            if name in prints and record["fingerprint"] != prints[name]:
                raise ValueError(
                    f"methods.{name} must be as it was when {path} was made, and so must student, teacher, selection "
                    "and views; give what is new another name, or delete the old results"
                )
        known = self.about().get("calibration", {}).get("seconds_per_step", {})
        runs = {path.name.split("_")[0] for path in self.results.glob("*_seed*.json")}
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of mmseg's heads about their losses, for every method
            random = self.random_teacher(Path(folder, "random.pth"))
            for name, method in self.study.methods.items():
                config = self.distil(copy.deepcopy(self.study.student), name, next(iter(self.study.trials(name)), {}))
                if method.terms:
                    config.model.teacher = dict(config.model.teacher, checkpoint=random)
                    config.model.teacher.pop("cache", None)
                for key, term in method.terms.items():
                    if term.get("prompts") is True:
                        loss = {**self.stages[name].model.prompts, **term["loss"]}
                        config.model.terms[key].update(prompts="untrained", loss=loss)
                    if wants_head(term):
                        config.model.terms[key].adapter.head = None
                try:
                    if not {name} & {*known, *runs}:
                        check_model(config)
                except ValueError as error:
                    raise ValueError(f"methods.{name}: {error}") from error

    @property
    def is_finished(self) -> bool:
        """Whether every final run is."""
        known = self.about().get("calibration", dict(seconds_per_step={}))
        if not {*self.timed} <= known["seconds_per_step"].keys() or self.is_pilot:
            return False
        runs = [self.training(name, {}, seed, known) for name in self.study.methods for seed in self.seeds]
        return all(run.result.exists() for run in [*self.trials(known), *runs])

    def trials(self, known: Mapping[str, Any]) -> list[Job]:
        """Return the trials of the search, in the order of the study."""
        study = self.study
        return [self.training(name, trial, SEED, known) for name in study.methods for trial in study.trials(name)]

    def final(
        self, chosen: Mapping[str, Mapping[str, Any]], seeds: Iterable[int], known: Mapping[str, Any]
    ) -> list[Job]:
        """Return final runs of all methods, seed by seed.

        Args:
            chosen: the options that the search has chosen for each method.
            seeds: of the runs.
            known: the calibration.

        Raises:
            ValueError: one is finished, with other options than the search chooses now.
        """
        jobs = [self.training(name, chosen[name], seed, known) for seed in seeds for name in self.study.methods]
        old: dict[str, str] = {}
        for name, job in zip(self.study.methods, jobs):
            files = f"{job.result.name.rsplit('_seed')[0]}_seed*.json"
            for path in sorted(self.results.glob(files)):
                made = json.loads(path.read_text("utf-8"))["options"]
                if made != chosen[name]:
                    now = f"{name_trial(chosen[name])} for {name} now, but {path} was made with {name_trial(made)}"
                    old.setdefault(files, now)
        if old:
            raise ValueError(
                f"search chooses {'; '.join(old.values())}; delete {', '.join(str(self.results / file) for file in old)}, or "
                "give the study another name"
            )
        return jobs

    @property
    def is_pilot(self) -> bool:
        """Whether a pilot is still to say how many seeds the study needs: none of this size has seen these methods."""
        found = self.about().get("pilot", {}).get(self.length, {})
        seen = found.get("methods", {}) if found.get("seeds") == self.study.pilot else {}
        return bool(self.study.pilot) and any(seen.get(name) != self.fingerprints[name] for name in self._offered)

    @property
    def _offered(self) -> list[str]:
        return [name for name in self.study.methods if not name.endswith(CONTROL)]

    @property
    def seeds(self) -> range:
        """Seeds of the final runs: in a pilot its own, after it those that it asks for, at most the study's."""
        study = self.study
        if not study.pilot:
            return range(study.seeds)
        needed = study.pilot if self.is_pilot else self.about()["pilot"][self.length]["needed"] or study.seeds
        return range(min(max(needed, study.pilot), study.seeds))

    def end_pilot(self) -> str:
        """Let the first seeds of all methods that have them say how many the study needs, and return it in words.

        A number that an earlier pilot of other methods has found stays the least.
        """
        known, records = read_study(self.results)
        first, made_of = range(self.study.pilot), {}
        metrics: dict[str, dict[int, float]] = {}
        for run in records:
            if length_of(run["budget"]) == self.length and run["seed"] in first and not run["method"].endswith(CONTROL):
                metrics.setdefault(run["method"], {})[run["seed"]] = run["metric"]
                made_of[run["method"]] = run["fingerprint"]
        metrics = {name: runs for name, runs in metrics.items() if len(runs) == len(first)}
        alone = metrics.pop(STUDENT)
        found = pilot(metrics, alone, smallest_gain(known, alone))
        pilots = self.about().get("pilot", {})
        before = pilots.get(self.length, {})
        if before.get("seeds") == len(first) and before["methods"].items() <= made_of.items() and found["needed"]:
            found["needed"] = before["needed"] and max(found["needed"], before["needed"])
        found |= dict(
            seeds=len(first), most=self.study.seeds, methods={name: made_of[name] for name in (STUDENT, *metrics)}
        )
        known = self.about("pilot", pilot={**pilots, self.length: found})
        return pilot_in_words(known, found)

    @property
    def timed(self) -> list[str]:
        """Methods whose seconds per step are measured: all, where the budget is a time; else the first, for the time left."""
        return [*self.study.methods][: None if self.study.budget.is_time else 1]

    @property
    def length(self) -> str:
        """The length of the final runs, as the answer names it."""
        return length_of(self.study.budget.of(self.timed[0], self.about()["calibration"]["seconds_per_step"]))

    # ---- what a method trains with --------------------------------------------------------------------------------------

    def random_teacher(self, path: Path) -> str:
        """Write a checkpoint of the teacher's network with random weights, the same each time."""
        with forked_randomness():
            torch.manual_seed(0)
            network = build_network(self.network, self.teacher.get("default_scope"))
        write_atomic(dict(state_dict=network.state_dict()), path)
        return str(path)

    def teacher_of(self, name: str) -> dict[str, Any]:
        """Return the teacher of a method, as a `Distiller` takes it; that of a control has random weights."""
        checkpoint = str(self.work / "random-teacher.pth") if name.endswith(CONTROL) else self.checkpoint
        return {key: value for key, value in self.study.teacher.items() if key != "steps"} | dict(checkpoint=checkpoint)

    @property
    def recipe(self) -> dict[str, Any]:
        """What a teacher that the study trains was trained with; beside its file, with the metric on the selection part."""
        held = hashlib.sha256("\n".join(sorted(self.held)).encode()).hexdigest()[:16]
        content, steps = self._digest(_content(self.teacher)), self.study.teacher["steps"]
        return dict(config_hash=content, steps=steps, selection=vars(self.study.selection), images_held_out=held)

    @property
    def trains_teacher(self) -> bool:
        """Whether the teacher is to be trained: the study does it, and keeps no checkpoint, or one that is not there yet."""
        teacher = self.study.teacher
        return "steps" in teacher and not ("checkpoint" in teacher and Path(self.checkpoint).exists())

    def check_initial_weights(self) -> None:
        """Read the weights that the networks to be trained start from.

        Raises:
            CheckpointError: some are missing or damaged.
        """
        trained = [self.study.student, *([self.teacher] * self.trains_teacher), *self.stages.values()]
        for config in trained:
            check_initial_weights(config)
            check_checkpoint(Config(dict(load_from=config.get("load_from"))))

    def _check_recipe(self) -> None:
        if "steps" not in self.study.teacher or not (file := Path(self.checkpoint)).exists() or file == self.trained:
            return
        path = file.with_suffix(".json")
        if not path.exists():
            raise ValueError(
                f"teacher.checkpoint must be a teacher that this study has trained, but {path}, which says how, is missing; "
                "name another file, or leave out steps for a teacher of your own that has not seen the selection part"
            )
        found = json.loads(path.read_text("utf-8"))
        wrong = [
            f"{key} {found.get(key)!r} for {value!r}" for key, value in self.recipe.items() if found.get(key) != value
        ]
        if wrong:
            raise ValueError(
                f"teacher.checkpoint must be a teacher that this study has trained, but {path} says {'; '.join(wrong)}; name "
                "another file, or leave out steps for a teacher of your own that has not seen the selection part"
            )

    def _keep_teacher(self, job: Job) -> None:
        file, record = Path(self.checkpoint), json.loads(job.result.read_text("utf-8"))
        if file == self.trained:
            return
        write_json(
            dict(config=self.study.teacher["config"])
            | self.recipe
            | dict(
                metric_on_selection_part=record["metric"],
                weights_hash=hash_weights(weights_of(read_checkpoint(str(self.trained)))),
                torch=torch.__version__,
            ),
            file.with_suffix(".json"),
        )
        with write_whole(file) as copy_of:
            copy_of.write(self.trained.read_bytes())

    def _stage(self, name: str) -> str:
        """Name the folder of a method's first stage, the same for methods that share it."""
        digits = self._digest(_content(self.stages[name]))[:6]
        return f"{Path(str(self.study.methods[name].stage)).stem}-{digits}{CONTROL * name.endswith(CONTROL)}"

    def distil(self, config: Config, name: str, options: Mapping[str, Any]) -> Config:
        """Put the student of a config under a method's distiller."""
        method, taps = self.study.methods[name], set()
        if not method.terms:
            return config
        terms, teacher = apply_trial(method.terms, options), self.teacher_of(name)
        for term in terms.values():
            tap = term.get("teacher_tap") or term.get("student_tap")
            if term.get("prompts") is True:
                term["prompts"] = str(self.work / "stage" / self._stage(name) / "prompts.pth")
                tap = tap or self.stages[name].model.get("tap")
            if wants_head(term):
                term["adapter"]["head"] = str(self.work / "stage" / self._stage(name) / HEAD_FILE)
            adapter = MODELS.build(copy.deepcopy(term["adapter"])) if term.get("adapter") else HeadAdapter()
            if not adapter.runs_teacher:
                taps |= {tap or "neck", *adapter.teacher_taps}
        if self.study.views and taps:
            folder = "-".join(sorted(taps)) + CONTROL * name.endswith(CONTROL)
            teacher["cache"] = dict(dir=str(self.work / "cache" / folder), views=self.study.views)
        options = dict(method.options, student=config.model, teacher=teacher, terms=terms)
        config.model = dict(options, type="freqkd.Distiller")
        if method.data:
            config.train_dataloader.sampler = dict(method.data["sampler"])
            config.custom_hooks = [*(config.get("custom_hooks") or []), *method.data["hooks"]]
        return config

    # ---- jobs -----------------------------------------------------------------------------------------------------------

    def job(self, name: str, config: Config, kind: str, result: str | Path, seconds: float = 0.0, **run: Any) -> Job:
        """Return a job; see `set_purpose`. Its work dir is named after its result, which by default is not kept."""
        result = self.work / "done" / kind / result if isinstance(result, str) else result
        own = _content(config)
        set_purpose(config, kind, self.work / kind / result.stem, result, self.study.metric, **run)
        read = dict.fromkeys([*([self.checkpoint] * (kind != "teacher")), str(run.get("checkpoint", ""))])
        weights = [self._weights(path) for path in read if Path(path).is_file()]
        parts = [own, kind, run, weights, _content(self.teacher), *self._compared]
        config[RUN][MADE_OF] = self._digest(parts)
        return Job(name, config, seconds)

    def preparations(self) -> Iterator[Job]:
        """Yield the teacher's training, the first stages, and a filling of each cache."""
        if self.trains_teacher:
            config = copy.deepcopy(self.teacher)
            hold_out(config, self.held, self.work / "split" / "teacher")
            config = make_config(config, self.study.teacher["steps"], 0)
            yield (job := self.job("teacher", config, "teacher", "teacher.json", record=dict(self.study.teacher)))
            self._keep_teacher(job)
        stages = {self._stage(name): name for name in self.stages}  # one for all methods that name it
        for stage, name in stages.items():
            config = copy.deepcopy(self.stages[name])
            config.update({f"test_{slot}": self.base[f"test_{slot}"] for slot in ("dataloader", "evaluator")})
            hold_out(config, self.held, self.work / "split" / stage)
            parts = [f"{part}_{slot}" for part in ("val", "test") for slot in ("dataloader", "evaluator", "cfg")]
            config.update(dict.fromkeys(parts))  # a first stage is not judged
            config.model.teacher = self.teacher_of(name)
            keep = HEAD_FILE if self.study.methods[name].head else None
            yield self.job(stage, config, "stage", f"{stage}.json", keep=keep)
        filled = set()
        for name in self.study.methods:
            config = self.distil(make_config(self.base, POINTS, 0), name, {"ratio": 1.0})
            cache = config.model.get("teacher", {}).get("cache", {}).get("dir")
            if cache and cache not in filled:
                filled.add(cache)
                yield self.job(f"cache of {Path(cache).name}", config, "fill", f"{Path(cache).name}.json")

    def begin_calibration(self, device: str) -> None:
        """Decide which of the measured seconds per step hold; forget the others.

        Steps of a time are fair where all methods were measured one after the other on one device. A budget in steps needs
        the seconds for the time left alone, so that those of another day will do.

        Args:
            device: this machine's.

        Raises:
            ValueError: methods that were not measured would be compared with runs of a time on another device.
        """
        known = self.about().get("calibration", {})
        measured: dict[str, Any] = dict(seconds_per_step={}, other_seconds={})
        if not self.study.budget.is_time:
            self.about(calibration=measured)
            return
        missing = [name for name in self.timed if name not in known.get("seconds_per_step", {})]
        records = (*self.results.glob("*_*.json"), *self.results.glob("search/*.json"))
        begun = any("seconds" in json.loads(path.read_text("utf-8"))["budget"] for path in records)
        together, here = known.get("together", False), known.get("device") == device
        if missing and begun and not (together and here):
            raise ValueError(
                f"budget must be a number of steps for {', '.join(missing)} beside the runs in {self.results}, whose seconds "
                f"became steps on {known.get('device', 'another machine')}; or give the study another name, or delete these"
            )
        holds = begun or (together and here)
        self.about(
            *(() if holds else ("calibration",)),
            calibration=measured | ({} if begun else dict(together=True, device=device)),
        )

    def to_measure(self) -> list[str]:
        """Return the methods whose seconds per step are still to be measured, in this order.

        Those that become a number of steps are measured twice, there and back, and the lower value counts: other work on the
        machine, and its first steps, only ever take longer.
        """
        known = self.about()["calibration"]
        times = known.get("measured", {})  # missing in older results, whose seconds hold as they are
        count = {name: len(times[name]) if name in times else 2 for name in known["seconds_per_step"]}
        first = [name for name in self.timed if count.get(name, 0) < 1]
        return first + [name for name in self.timed[::-1] if count.get(name, 1) < 2 and self.study.budget.is_time]

    def calibration(self, name: str) -> Job:
        """Return a few steps of a method, with the ratios of its terms measured in the first of them."""
        config = self.distil(make_config(self.base, CALIBRATION, SEED, points=1), name, {"ratio": 1.0})
        for term in config.model.get("terms", {}).values():
            if isinstance(term.get("weight"), Mapping):
                term.weight.iters = CALIBRATION // 4
        return self.job(f"{name}: calibration", config, "calibrate", f"{name}.json")

    def evaluation(self) -> Job:
        """Return the evaluation of the teacher on the split that judges the final runs."""
        config = make_config(self.base, POINTS, 0)
        if not self.study.report:
            config.test_dataloader, config.test_evaluator = config.val_dataloader, config.val_evaluator
        config.model = self.network
        about = dict(predictions=self.predictions, checkpoint=self.checkpoint)
        return self.job("teacher, evaluation", config, "evaluate", "teacher.json", 0.0, **about)

    def training(self, name: str, options: Mapping[str, Any], seed: int, known: Mapping[str, Any]) -> Job:
        """Return a trial, where the seed is that of the search, or a final run of a method.

        Args:
            name: of the method.
            options: what the trial tries, or what the search has chosen.
            seed: of the first weights and the order of the images.
            known: the calibration.
        """
        budget = self.study.budget.of(name, known["seconds_per_step"])
        length = f"{budget['seconds']:g}s" if "seconds" in budget else f"{budget['steps']}-steps"
        steps = max(POINTS, round(budget["steps"] * options.get("length", 1.0)))
        kind, last = ("trial", f"trial-{name_trial(options)}") if seed == SEED else ("final", f"seed{seed}")
        record = dict(study=self.study.name, method=name, seed=seed, budget=budget, options=dict(options))
        record |= dict(trials=len(self.study.trials(name)), fingerprint=self.fingerprints[name])
        config = self.distil(make_config(self.base, steps, seed, lr=options.get("lr", 1.0)), name, options)
        result = self.results / ("search" if kind == "trial" else "") / f"{name}_{length}_{last}.json"
        timed = name if name in known["seconds_per_step"] else self.timed[0]
        seconds = steps * known["seconds_per_step"][timed] + known["other_seconds"][timed]
        return self.job(
            f"{name}, {last}",
            config,
            kind,
            result,
            seconds,
            record=record,
            predictions=self.predictions,
            report=self.study.report,
        )


def _merge(known: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with another one added, and so its parts.

    >>> _merge(dict(a=dict(x=1), b=1), dict(a=dict(y=2), b=2))
    {'a': {'x': 1, 'y': 2}, 'b': 2}
    >>> _merge(dict(a=[1]), dict(a=dict(x=1)))  # as older versions wrote the metric of each class
    {'a': {'x': 1}}
    """
    shared = [key for key in known.keys() & new.keys() if isinstance(known[key], Mapping)]
    both = {key: _merge(known[key], new[key]) for key in shared if isinstance(new[key], Mapping)}
    return {**known, **new, **both}


def _content(config: Config) -> dict[str, Any]:
    """Return a config with what is in the files of weights that it names in place of where they lie."""
    plain: dict[str, Any] = copy.deepcopy(config.to_dict())
    for holder, key in [(plain, "load_from"), *initial_weights(plain.get("model"))]:
        if holder.get(key) and Path(holder[key]).is_file():
            holder[key] = hashlib.sha256(Path(holder[key]).read_bytes()).hexdigest()
    return plain


def _pad_to_one_size(loader: Any, preprocessor: Mapping[str, Any]) -> None:
    """Pad the images of a pipeline that ends with `Resize(keep_ratio=True)` to its scale, as a cached teacher needs it."""
    dataset = loader.dataset
    while not dataset.get("pipeline") and dataset.get("dataset"):
        dataset = dataset.dataset
    steps = list(dataset.get("pipeline") or ())
    sizes = [step for step in steps if any(word in str(step.get("type")) for word in ("Resize", "Crop", "Pad"))]
    last = sizes[-1] if sizes else {}
    if str(last.get("type")).split(".")[-1] != "Resize" or not last.get("keep_ratio") or "scale" not in last:
        return
    mean = [round(value) for value in preprocessor.get("mean") or (0, 0, 0)]  # which it makes 0, its own padding
    pad = dict(type="freqkd.PadToScale", scale=tuple(last["scale"]))
    pad["pad_val"] = tuple(mean[::-1] if preprocessor.get("bgr_to_rgb") else mean)
    dataset.pipeline = [*steps[:-1], pad, steps[-1]]
    if len({*last["scale"]}) > 1:
        loader.setdefault("batch_sampler", dict(type="AspectRatioBatchSampler"))
