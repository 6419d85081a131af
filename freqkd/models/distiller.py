"""The distiller: student, teacher and terms as one model of MMEngine."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from mmengine.config import ConfigDict
from mmengine.dist import is_distributed
from mmengine.logging import MessageHub, print_log
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn

from freqkd.adapters.base import Batch
from freqkd.models.gradient_path import check_gradient, untrained_levels
from freqkd.models.gradients import TapGradient, tap_gradient
from freqkd.models.opposing_terms import OpposingTerms
from freqkd.models.options import check_options, check_type, make
from freqkd.models.recomputation import recomputed_with_graph
from freqkd.models.rehearsal import part_of_rehearsal, rehearsing, take_image
from freqkd.models.schedule import TermSchedule
from freqkd.models.state_dict import STUDENT, from_student_keys, to_student_keys
from freqkd.models.step_record import lowered
from freqkd.models.tap_shapes import MapShape, map_shape
from freqkd.models.term import DistillTerm
from freqkd.models.weak_terms import WeakTerms
from freqkd.taps import FeatureTap, InputTap, find_module
from freqkd.teacher import CachedTeacher, Teacher, build_teacher
from freqkd.teacher.teacher import run_to, runs_on_features
from freqkd.utils.checkpoints import CheckpointError, check_inheritable, hash_weights, load_strict
from freqkd.utils.checks import check_flag, check_sequence, check_whole
from freqkd.utils.randomness import forked_randomness


class Distiller(BaseModel):
    """Student + teacher + terms.

    In `loss` mode the student's own losses are joined by `distill.<term>`; in every other mode this is the student.
    Its state dict has the student's own keys, everything else under `distiller.`, and nothing of the teacher: every
    checkpoint is a student checkpoint.

    Args:
        student: config of the student network.
        teacher: `dict(config=..., checkpoint=...)`, see `Teacher`; with `cache=dict(dir=..., views=...)`, see `CachedTeacher`.
        terms: `{name: DistillTerm or its config}`; names start with `loss_`.
        inherit: paths of student modules that start from the teacher's weights, e.g. `("neck", "bbox_head")`; their shapes
            must be equal.
        task_schedule: arguments of `TermSchedule` for the student's own losses, for methods whose first phase has none;
            None: always.
        own_losses: whether the student's own losses are computed. False: the terms alone, which need no labels; they compare
            maps of backbone, neck or dense heads, and their weights are numbers.
        monitor: every so many iterations, each term's ratio to the task's gradient, the cosine between the two, its weight
            and its gradient norm go to the log, and a warning where a term pulls with under 5 % of its ratio weight's, or
            against the task, at the price of one more backward pass to the tap; 0: never.

    Raises:
        ValueError: a term's name or path is wrong; a tapped feature does not fit its term, or no gradient of a term reaches
            the student (in the first iteration); what is to be inherited has another shape.
        CheckpointError: the teacher or the prompts cannot be loaded, on `init_weights` or the first loss.
    """

    # Called with a term's name and the student's maps as that term has them, by path; see `StepRecord`.
    watch: Callable[[str, Mapping[str, Sequence[Tensor]]], None] | None = None

    def __init__(
        self,
        student: nn.Module | Mapping[str, Any],
        teacher: Teacher | CachedTeacher | Mapping[str, Any],
        terms: Mapping[str, DistillTerm | Mapping[str, Any]],
        inherit: Sequence[str] = (),
        task_schedule: Mapping[str, Any] | None = None,
        own_losses: bool = True,
        monitor: int = 0,
        data_preprocessor: Any = None,
    ) -> None:
        check_whole("monitor", monitor, 0)
        check_flag("own_losses", own_losses)
        check_sequence("inherit", inherit, "paths of student modules")
        if not isinstance(student, (nn.Module, Mapping)):
            raise ValueError(f"student must be the config of a network, dict(type=...), got {student!r}")
        if not isinstance(terms, Mapping):
            raise ValueError(
                f"terms must be a dict of terms by name, dict(loss_freekd=dict(...)), got {type(terms).__name__}"
            )
        network = (
            student if isinstance(student, nn.Module) else ROOT_MODELS.build(ConfigDict(copy.deepcopy(dict(student))))
        )
        if is_distributed() and not torch.cuda.is_available():
            # SyncBN runs on accelerators only, and the Runner reverts it only for a single process.
            network = revert_sync_batchnorm(network)
        super().__init__(data_preprocessor=network.data_preprocessor)
        self.student = network
        self.teacher = build_teacher(teacher)
        if not terms:
            raise ValueError(
                "terms must hold at least one term, e.g. dict(loss_freekd=dict(type='freqkd.DistillTerm'))"
            )
        # The terms' own weights must cost the student no random number: alone or distilled, it starts the same.
        with forked_randomness():
            self.distiller = nn.ModuleDict({name: self._build_term(name, term) for name, term in terms.items()})
        for name, term in self.terms.items():
            term.check_network(name, "student", self.student)
        for path in inherit:
            find_module(self.student, path)
        self.inherit = tuple(inherit)
        self.task_schedule = make("task_schedule", TermSchedule, task_schedule)
        self.own_losses = own_losses
        self.monitor = monitor
        if not own_losses:
            self._check_without_task()
        self._prepared = False
        self._iteration = 0
        self._unchecked = set(self.terms)  # terms of which no gradient was seen yet
        self._weak_terms, self._opposing_terms = WeakTerms(), OpposingTerms()
        self._register_state_dict_hook(to_student_keys)

    @staticmethod
    def _build_term(name: str, term: DistillTerm | Mapping[str, Any]) -> DistillTerm:
        if not str(name).startswith("loss_"):
            raise ValueError(
                f"a term's name must start with 'loss_', got {name!r}: MMEngine sums the entries whose name contains "
                f"'loss' and would leave this one out; call it 'loss_{name}'"
            )
        if isinstance(term, DistillTerm):
            return term
        if not isinstance(term, Mapping):
            raise ValueError(f"terms.{name} must be dict(type='freqkd.DistillTerm', ...), got {term!r}")
        options = dict(term)
        check_type(f"terms.{name}.type", options.pop("type", None), DistillTerm, "its loss= says what the term does")
        check_options(f"terms.{name}", DistillTerm, options)
        try:
            return DistillTerm(**options)
        except ValueError as error:
            kind = CheckpointError if isinstance(error, CheckpointError) else ValueError
            raise kind(f"terms.{name}: {error}") from None

    def _check_without_task(self) -> None:
        """Check that nothing needs the student's own losses or labels."""
        if self.task_schedule is not None or self.monitor:
            name, rest = ("monitor", "0") if self.monitor else ("task_schedule", "None")
            raise ValueError(
                f"{name} must be {rest} with own_losses=False, where there is no task to schedule or to compare with"
            )
        for name, term in self.terms.items():
            if term.adapter is not None:
                raise ValueError(
                    f"terms.{name}.adapter must be None with own_losses=False, got {type(term.adapter).__name__}: adapters "
                    "look at labels or heads; leave the term to the training with labels"
                )
            if term.weight.wants_gradients:
                raise ValueError(
                    f"terms.{name}.weight must be a number with own_losses=False, where there is no task to take a ratio to; "
                    "set it to 1.0"
                )
            if not runs_on_features(self.student, term.student_paths):
                raise ValueError(
                    f"terms.{name}.student_tap must lie in backbone, neck or a dense head with own_losses=False, got "
                    f"{term.student_tap!r}, which runs with labels only"
                )

    @property
    def terms(self) -> dict[str, DistillTerm]:
        """The terms by name."""
        return dict(self.distiller.items())  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            # Hooks and loops of mmdet and mmseg look for `bbox_head`, `with_neck`, `CLASSES` and the like.
            if name != "student" and "student" in self.__dict__.get("_modules", {}):
                return getattr(self._modules["student"], name)
            raise

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Name the student's parameters as the student does: layer-decay optimizers look for a leading `backbone`."""
        before = f"{prefix}.{STUDENT}" if prefix else STUDENT
        after = f"{prefix}." if prefix else ""
        for name, parameter in super().named_parameters(prefix, recurse, remove_duplicate):
            yield (after + name[len(before) :] if name.startswith(before) else name), parameter

    def _apply(self, fn: Any, recurse: bool = True) -> Distiller:
        self.teacher.apply(fn)
        return super()._apply(fn, recurse)

    def init_weights(self) -> None:
        """Initialise the student, let it inherit what it should, and bring in teacher and prompts."""
        cast(Any, self.student).init_weights()
        self.prepare()
        for path in self.inherit:
            source = find_module(self.teacher.model, path)
            load_strict(find_module(self.student, path), source.state_dict(), f"the teacher's {path!r}")

    def prepare(self) -> None:
        """Build the teacher beside the student, and check terms and prompts against it, once."""
        if self._prepared:
            return
        self.teacher.to(next(self.student.parameters()).device)
        self.teacher.prepare(_paths(term.teacher_paths for term in self.terms.values()), self.data_preprocessor)
        for name, term in self.terms.items():
            term.check_network(name, "teacher", self.teacher.model)
            with _named(name):
                term.check_teacher(self.teacher)
        for path in self.inherit:
            part, source = find_module(self.student, path), find_module(self.teacher.model, path)
            check_inheritable(path, part, source, self.teacher.acceleration.fuse_norm)
        self._prepared = True

    def identity(self) -> dict[str, str]:
        """Return the hashes of what a resumed training must find unchanged: the teacher, prompts and heads of each term."""
        self.prepare()
        prompted = {name: term.loss for name, term in self.terms.items() if term.prompt_file is not None}
        prompts = {f"terms.{name}.prompts": hash_weights(loss.state_dict()) for name, loss in prompted.items()}
        adapters = {name: term.adapter.identity() for name, term in self.terms.items() if term.adapter is not None}
        files = {f"terms.{name}.{key}": value for name, found in adapters.items() for key, value in found.items()}
        return {"model.teacher": self.teacher.hash, **prompts, **files}

    def rehearse(
        self, sample: Mapping[str, Any] | None = None, size: tuple[int, int] = (64, 96)
    ) -> dict[str, dict[str, list[MapShape]]]:
        """Run every term once on one image, without training anything: raises what the first iteration would.

        Args:
            sample: what the pipeline of the training data gives for an image. None: a blank image, where terms with an
                adapter, and taps that need boxes or queries, are left to the first iteration.
            size: height and width of the blank image.

        Returns:
            The shapes of what was tapped in the "student" and the "teacher", by path; empty where nothing could run.

        Raises:
            ValueError: something does not fit.
            RehearsalError: a part fails for a reason that no check foresaw.
        """
        self.prepare()
        paths = _paths(term.student_paths for term in self.terms.values())
        listened = _paths(term.student_inputs for term in self.terms.values())
        with rehearsing(self):
            image = take_image(self, sample, size)
            if image.samples is None and not runs_on_features(self.student, paths):
                return {}
            with part_of_rehearsal("the teacher", image):
                images = self.teacher.normalize(image.inputs, image.samples)
                # Not `start`: a cache would look for the view that the image is.
                taught = self.teacher.paths
                teacher_feats = self.teacher.extract(images, image.samples, taught) if taught else {}
            with part_of_rehearsal("the student", image):
                with FeatureTap(self.student, paths) as tap, InputTap(self.student, listened) as calls:
                    if image.samples is None:
                        run_to(self.student, image.inputs, None, paths, as_in_training=True)
                    else:
                        self._student_losses(image.inputs, image.samples, paths)
                    student_feats = {path: tap.maps(path) for path in paths}
                    student_inputs = {path: calls[path] for path in listened}
            batch = Batch(
                image.inputs,
                images,
                image.samples,
                self.student,
                self.teacher,
                student_feats,
                teacher_feats,
                student_inputs,
            )
            for name, term in self.terms.items():
                if term.adapter is None or image.samples is not None:
                    with part_of_rehearsal(f"terms.{name}", image, f"terms.{name}: "):
                        self._term_loss(term, batch)
        return {
            owner: {path: [map_shape(one, image.inputs.shape) for one in maps] for path, maps in feats.items()}
            for owner, feats in (("student", student_feats), ("teacher", teacher_feats))
        }

    @recomputed_with_graph()
    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        """Do what the student does; in `loss` mode, add the terms."""
        if mode != "loss":
            return self.student(inputs, data_samples, mode=mode)
        self.prepare()
        images = self.teacher.normalize(inputs, data_samples)
        # The teacher first: what it needed is free again when the student's graph is built; a cache reads its files meanwhile.
        teacher_feats = self.teacher.start(images, data_samples)
        paths = _paths(term.student_paths for term in self.terms.values())
        listened = _paths(term.student_inputs for term in self.terms.values())
        with FeatureTap(self.student, paths) as tap, InputTap(self.student, listened) as calls:
            losses = self._student_losses(inputs, data_samples, paths)
            student_feats = {path: tap.maps(path) for path in paths}
            student_inputs = {path: calls[path] for path in listened}
            tap.clear()
        batch = Batch(
            inputs, images, data_samples, self.student, self.teacher, student_feats, teacher_feats(), student_inputs
        )
        task = self.parse_losses(losses)[0] if self.own_losses else None
        if self.task_schedule is not None:
            losses = scale_losses(losses, self.task_schedule())
        watched = bool(self.monitor and self._iteration % self.monitor == 0)
        task_gradients: dict[Any, tuple[Tensor, TapGradient | None]] = {}
        for name, term in self.terms.items():
            own = self._with_own_maps(name, term, batch)
            with _named(name), term.warnings.named(f"terms.{name}"):
                term.warn_of_strides(own)
                loss = self._term_loss(term, own)
            if name in self._unchecked and torch.is_grad_enabled() and not torch.compiler.is_compiling():
                self._check_gradient(name, term, loss, own)
            factor = (term.schedule() if term.schedule is not None else 1.0) * lowered(name)
            if task is not None and (term.weight.wants_gradients or watched):
                maps = term.select(student_feats[term.student_tap], "student")
                place = (term.student_tap, term.student_levels)
                with _named(name):
                    if place not in task_gradients:
                        found = tap_gradient(task, maps)
                        task_gradients[place] = found.norm(), found if watched else None
                    self._measure(name, term, tap_gradient(loss, maps), factor, *task_gradients[place])
            losses[f"distill.{name}"] = loss * (term.weight.value() * factor)
            if task is not None:
                term.weight.end_iteration()
        self._iteration += 1
        return losses

    @staticmethod
    def _term_loss(term: DistillTerm, batch: Batch) -> Tensor:
        """Return a term's unweighted loss."""
        student = term.select(batch.student_feats[term.student_tap], "student")
        teacher: list[Tensor] = []
        if term.teacher_tap in term.teacher_paths:
            teacher = term.select(batch.teacher_feats[term.teacher_tap], "teacher")
        term.advance()
        return term(student, teacher, batch)

    def _student_losses(self, inputs: Tensor, data_samples: Any, paths: Sequence[str]) -> dict[str, Any]:
        """Run the student, and return its own losses; without them, it runs as far as it is tapped."""
        if self.own_losses:
            return dict(self.student(inputs, data_samples, mode="loss"))
        run_to(self.student, inputs, data_samples, paths, as_in_training=True)
        return {}

    def _check_gradient(self, name: str, term: DistillTerm, loss: Tensor, batch: Batch) -> None:
        """Check in the first iteration that a term trains the student; warn of levels that do not."""
        with _named(name):
            known = check_gradient(
                loss, self.student, term.student_tap, {path: batch.student_feats[path] for path in term.student_paths}
            )
        if not known:
            return
        self._unchecked.remove(name)
        levels = untrained_levels(term.select(batch.student_feats[term.student_tap], "student"))
        if levels:
            indices = [term.student_levels[level] for level in levels] if term.student_levels else levels
            print_log(
                f"terms.{name}: no gradient reaches the student from level {', '.join(map(str, indices))} of "
                f"{term.student_tap!r}, whose parameters are frozen or run without a graph; leave it out by student_levels=",
                "current",
                logging.WARNING,
            )

    def _with_own_maps(self, name: str, term: DistillTerm, batch: Batch) -> Batch:
        """Give a term the student's maps as tensors of its own, so that its gradient can be told from all others."""
        maps = {
            path: [feature.view_as(feature) for feature in batch.student_feats[path]] for path in term.student_paths
        }
        if self.watch is not None:
            self.watch(name, maps)
        return dataclasses.replace(batch, student_feats={**batch.student_feats, **maps})

    def _measure(
        self,
        name: str,
        term: DistillTerm,
        gradient: TapGradient,
        factor: float,
        task_norm: Tensor,
        watched_task: TapGradient | None,
    ) -> None:
        """Give a term's weight the norms of both gradients, and log them where the task's own is given."""
        term_norm = gradient.norm()
        term.weight.update(task_norm, term_norm)
        weight = term.weight.value() * factor
        ratio = weight * term_norm / task_norm.clamp(min=1e-30)
        if weak := self._weak_terms.notice(name, term.weight, float(ratio), factor):
            print_log(weak, "current", logging.WARNING)
        if watched_task is None:
            return
        cosine = gradient.cosine(watched_task)
        if opposing := self._opposing_terms.notice(name, float(cosine), float(ratio)):
            print_log(opposing, "current", logging.WARNING)
        hub = MessageHub.get_current_instance()
        for what, value in (("ratio", ratio), ("cosine", cosine), ("weight", weight), ("grad_norm", term_norm)):
            hub.update_scalar(f"train/{what}/{name}", float(value))
        hub.update_scalar("train/grad_norm/task", float(task_norm))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        from_student_keys(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


@contextmanager
def _named(term: str) -> Iterator[None]:
    """Put a term's name before the message of a ValueError that is raised in the block."""
    try:
        yield
    except ValueError as error:
        kind = CheckpointError if isinstance(error, CheckpointError) else ValueError
        raise kind(f"terms.{term}: {error}") from None


def _paths(of_terms: Iterable[Iterable[str]]) -> list[str]:
    """Return the paths of all terms in order, each once."""
    return list(dict.fromkeys(path for paths in of_terms for path in paths))


def scale_losses(losses: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """Multiply what MMEngine would add up: the entries whose name contains "loss".

    >>> scale_losses({"loss_cls": [2.0], "acc": 7.0}, 0.5)
    {'loss_cls': [1.0], 'acc': 7.0}
    """

    def scaled(value: Any) -> Any:
        return [item * factor for item in value] if isinstance(value, (list, tuple)) else value * factor

    return {name: scaled(value) if "loss" in name else value for name, value in losses.items()}
