"""A term of a distillation: taps in both networks, align, adapter, loss, weight and schedule."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast

from mmengine.logging import MessageHub
from torch import Tensor, nn

from freqkd.adapters.base import Batch, HeadAdapter
from freqkd.adapters.classes import check_align
from freqkd.adapters.heads import check_bare_tap
from freqkd.losses.freekd.loss import PRESETS, FreeKDLoss
from freqkd.models.options import build_part, make, part_class
from freqkd.models.prompt_file import PromptFile, read_prompts
from freqkd.models.schedule import TermSchedule
from freqkd.models.strides import compare_strides
from freqkd.models.weight import build_weight
from freqkd.taps import find_tap
from freqkd.utils.checks import check_choice, check_levels
from freqkd.utils.warning_log import WarningLog


class DistillTerm(nn.Module):
    """`weight * loss(align(student features), teacher features)`.

    Args:
        loss: a loss of `freqkd.losses`, or its config.
        student_tap: path of the tapped module in the student, e.g. `"neck"`, `"decode_head.bottleneck"`; None: where the
            prompts were trained, or "neck".
        teacher_tap: path in the teacher; None: where the prompts were trained, or the same as the student's.
        align: maps student features to the teacher's channels or size, or its config; None: they fit already.
        weight: a number, or `dict(ratio=..., iters=...)`: the ratio of the term's gradient at the tap to the task's.
        student_levels: indices of the student's tapped maps that count, in the order in which they are paired with the
            teacher's; None: the same as the teacher's. P2 to P6 and P3 to P7 pair as (1, 2, 3, 4) and (0, 1, 2, 3).
        teacher_levels: indices of the teacher's; None: those of the prompts, or the same as the student's, or all. Where
            paired maps differ in stride, a warning says so, once.
        prompts: file of trained prompts, for losses that have prompts, which says channels, levels and tap; what a config
            states beside it must agree. `"untrained"` goes without, on purpose.
        schedule: arguments of `TermSchedule`; None: always.
        adapter: turns tapped maps into what the loss takes (logits, labels), or its config; None: maps are taken as they
            are.
        progress: what counts as one step for losses that change over the training (`set_progress`): "epoch" or "iter".

    Raises:
        ValueError: an option of another kind or out of range; prompts are missing, or given to a loss that has none.
        CheckpointError: the prompt file is missing or damaged, or disagrees with what is stated.

    Example:
        ```python
        terms=dict(loss_freekd=dict(
            type='freqkd.DistillTerm', student_tap='neck',
            align=dict(type='freqkd.ConvAlign', student_channels=32, teacher_channels=64, num_levels=5),
            loss=dict(type='freqkd.FreeKDLoss'), prompts='work_dirs/prompts/prompts.pth', weight=dict(ratio=0.5)))
        ```
    """

    def __init__(
        self,
        loss: nn.Module | Mapping[str, Any],
        student_tap: str | None = None,
        teacher_tap: str | None = None,
        align: nn.Module | Mapping[str, Any] | None = None,
        weight: float | Mapping[str, Any] = 1.0,
        student_levels: Sequence[int] | None = None,
        teacher_levels: Sequence[int] | None = None,
        prompts: str | None = None,
        schedule: Mapping[str, Any] | None = None,
        adapter: HeadAdapter | Mapping[str, Any] | None = None,
        progress: str = "epoch",
    ) -> None:
        super().__init__()
        for name, path in (("student_tap", student_tap), ("teacher_tap", teacher_tap)):
            if path is not None and not (isinstance(path, str) and path):
                raise ValueError(f"{name} must be the path of a module, e.g. 'neck', got {path!r}")
        check_levels(student_levels, "student_levels")
        check_levels(teacher_levels, "teacher_levels")
        check_choice("progress", progress, ("epoch", "iter"))
        self.progress = progress
        self.prompt_file = _read_prompts(prompts, loss)
        if self.prompt_file is not None:
            made = self.prompt_file.made
            teacher_tap = teacher_tap or made["tap"]
            student_tap = student_tap or teacher_tap
            teacher_levels = made["levels"] if teacher_levels is None and student_levels is None else teacher_levels
        self.student_tap = student_tap or "neck"
        self.teacher_tap = teacher_tap or self.student_tap
        self.student_levels = _levels(student_levels, teacher_levels)
        self.teacher_levels = _levels(teacher_levels, student_levels)
        if self.prompt_file is not None:
            self.prompt_file.compare(dict(tap=self.teacher_tap, levels=list(self.teacher_levels or ())))
            if isinstance(loss, Mapping):
                loss = self.prompt_file.complete(loss)
            if isinstance(align, Mapping):
                align = self.prompt_file.complete_align(align)
        self.loss: nn.Module = build_part("loss", loss)
        self.align: nn.Module | None = build_part("align", align)
        self.weight = build_weight(weight)
        self.schedule = make("schedule", TermSchedule, schedule)
        self.adapter: HeadAdapter | None = build_part("adapter", adapter)
        if not isinstance(self.adapter, (HeadAdapter, type(None))):
            raise ValueError(f"adapter must be dict(type='freqkd.NAME', ...) of an adapter, got {adapter!r}")
        for name, part in (("loss", self.loss), ("align", self.align)):
            if not isinstance(part, nn.Module) and not (part is None and name == "align"):
                raise ValueError(f"{name} must be dict(type='freqkd.NAME', ...), got {part!r}")
        if prompts is not None and not self.needs_prompts:
            raise ValueError(
                f"prompts must be left out: {type(self.loss).__name__} has no prompts to load, got {prompts!r}"
            )
        if self.prompt_file is not None:
            self.prompt_file.load_into(cast(FreeKDLoss, self.loss))
        self.warnings = WarningLog()
        self._compared_strides = False

    @property
    def needs_prompts(self) -> bool:
        """Whether the loss has prompts that a first stage trains."""
        return bool(getattr(self.loss, "needs_prompts", False))

    def check_teacher(self, teacher: Any) -> None:
        """Check that the prompts, and what the adapter reads, were trained on this teacher.

        Raises:
            CheckpointError: they were trained on another one.
        """
        if self.prompt_file is not None:
            self.prompt_file.check_teacher(teacher)
        if self.adapter is not None:
            self.adapter.check_teacher(teacher)

    def check_network(self, name: str, owner: str, network: nn.Module) -> None:
        """Check that a network has what this term taps, and a head of the kind that its loss is for.

        Args:
            name: the term's name, for the message.
            owner: "student" or "teacher".
            network: that network.

        Raises:
            ValueError: a path does not exist or is a list of modules, or the head's activation is not the loss's.
        """
        own = self.student_tap if owner == "student" else self.teacher_tap
        paths = (*self.student_paths, *self.student_inputs) if owner == "student" else self.teacher_paths
        if own in paths:
            same = owner == "teacher" and own == self.student_tap
            hint = "; where its path is not the student's, name it: teacher_tap='...'" if same else ""
            self._check_paths(network, [own], f"terms.{name}.{owner}_tap", hint)
        try:
            if owner == "student":
                check_align(self.align, self.adapter, network, own)
            if self.adapter is None:
                check_bare_tap(network, own, self.loss, owner)
            else:
                self.adapter.check_head(network, own, self.loss, owner)
        except ValueError as error:
            raise ValueError(f"terms.{name}: {error}") from None

        self._check_paths(network, paths, f"terms.{name}.adapter, in the {owner}")

    @staticmethod
    def _check_paths(network: nn.Module, paths: Sequence[str], place: str, hint: str = "") -> None:
        for path in dict.fromkeys(paths):
            try:
                find_tap(network, path)
            except ValueError as error:
                raise ValueError(f"{place}: {error}{hint}") from None

    def select(self, maps: list[Tensor], owner: str) -> list[Tensor]:
        """Return the maps of the chosen levels that were tapped in the "student" or the "teacher".

        Raises:
            ValueError: the module did not run, or has fewer maps than a level says.
        """
        path, levels = (
            (self.student_tap, self.student_levels) if owner == "student" else (self.teacher_tap, self.teacher_levels)
        )
        if not maps:
            raise ValueError(
                f"{owner} module {path!r} did not run as a module in training, so there is nothing to tap: mmseg calls its "
                "heads, and some modules call their parts, past the hooks; tap a module inside it, e.g. "
                "'decode_head.conv_seg'"
            )
        if levels is None:
            return maps
        if max(levels) >= len(maps):
            raise ValueError(
                f"{owner}_levels must be below {len(maps)}, the number of maps of {owner} {path!r}, got {levels}"
            )
        return [maps[level] for level in levels]

    def warn_of_strides(self, batch: Batch) -> None:
        """Warn, once, where maps of different strides are compared; the images of both networks have one size."""
        if self._compared_strides or self.teacher_tap not in batch.teacher_feats:
            return
        self._compared_strides = True
        student, teacher = batch.student_feats[self.student_tap], batch.teacher_feats[self.teacher_tap]
        found = compare_strides(student, teacher, batch.inputs.shape, self.student_levels, self.teacher_levels)
        if found:
            warnings.warn(f"{found}; ignore this warning if the maps are resized on purpose", stacklevel=2)

    @property
    def student_paths(self) -> tuple[str, ...]:
        """Everything tapped in the student for this term."""
        return (self.student_tap, *(self.adapter.student_taps if self.adapter is not None else ()))

    @property
    def student_inputs(self) -> tuple[str, ...]:
        """Modules of the student whose calls' arguments are recorded for this term."""
        return self.adapter.student_inputs if self.adapter is not None else ()

    @property
    def teacher_paths(self) -> tuple[str, ...]:
        """Everything tapped in the teacher for this term."""
        if self.adapter is None:
            return (self.teacher_tap,)
        return () if self.adapter.runs_teacher else (self.teacher_tap, *self.adapter.teacher_taps)

    @property
    def follows_progress(self) -> bool:
        """Whether the loss changes over the training."""
        return hasattr(self.loss, "set_progress") and bool(getattr(self.loss, "follows_progress", True))

    def advance(self) -> None:
        """Tell a loss that changes over the training how far the Runner is."""
        if hasattr(self.loss, "set_progress"):
            done = MessageHub.get_current_instance().runtime_info.get(self.progress)
            if done is not None:
                cast(Any, self.loss).set_progress(int(done))

    def forward(self, student: list[Tensor], teacher: list[Tensor], batch: Batch | None = None) -> Tensor:
        """Return the unweighted loss of one batch; `batch` is what an adapter looks at."""
        if self.align is not None:
            student, teacher = self.align(student, teacher)
        if self.adapter is None:
            return self.loss(student, teacher)
        if batch is None:
            raise ValueError("batch must be given to a term with an adapter, which looks at its samples, got None")
        options = self.adapter(student, teacher, batch)
        if not getattr(self.loss, "needs_target", True):
            options.pop("target", None)  # labels that a loss does not read may hold values it would refuse
        return self.loss(**options)


def _levels(own: Sequence[int] | None, other: Sequence[int] | None) -> tuple[int, ...] | None:
    chosen = other if own is None else own
    return None if chosen is None else tuple(chosen)


def _read_prompts(prompts: Any, loss: Any) -> PromptFile | None:
    """Read the file that `prompts` names for a loss that has prompts; None where it has none, or goes without on purpose."""
    if not isinstance(prompts, (str, type(None))):
        raise ValueError(f"prompts must be a file or 'untrained', got {prompts!r}")
    kind = part_class("loss", loss)
    masked = isinstance(kind, type) and issubclass(kind, FreeKDLoss)
    if isinstance(loss, Mapping):
        masked = masked and (loss.get("combine") or PRESETS.get(str(loss.get("preset")), {}).get("combine")) != "none"
    elif masked:
        masked = loss.needs_prompts
    if not masked:
        return None
    if not prompts:
        if isinstance(loss, Mapping):  # a wrong option comes first; the prompt file would say these two
            build_part("loss", {**loss, "channels": 1, "num_levels": 1})
        raise ValueError(
            f"{kind.__name__} needs trained prompts: add prompts='...' to the term (the prompts.pth that the prompt stage "
            "writes), or prompts='untrained' to go without"
        )
    return None if prompts == "untrained" else read_prompts(prompts)
