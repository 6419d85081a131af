"""One term of a distillation: where to look in both networks, how to align, which loss, how much and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from mmengine.logging import MessageHub
from torch import Tensor, nn

from freqkd.checkpoints import CheckpointError
from freqkd.checks import check_choice, check_levels
from freqkd.distillers.batch import Adapter, Batch
from freqkd.distillers.options import build_part, make
from freqkd.distillers.prompt_files import describe_use, read_prompts
from freqkd.distillers.schedules import TermSchedule
from freqkd.distillers.teacher import Teacher
from freqkd.distillers.weights import build_weight
from freqkd.taps import find_module


class DistillTerm(nn.Module):
    """`weight * loss(align(student features), teacher features)`.

    Args:
        loss: a loss of `freqkd.losses`, or its config.
        student: path of the tapped module in the student, e.g. `"neck"`, `"decode_head.bottleneck"`.
        teacher: path in the teacher; None: the same as the student's.
        align: maps student features to the teacher's channels or size, or its config; None: they fit already.
        weight: a number, or `dict(share=..., iters=...)`: a share of the task's gradient at the tap.
        levels: indices of the tapped maps that count; None: all.
        prompts: file of trained prompts, for losses that have prompts; `"untrained"` goes without, on purpose.
        schedule: arguments of `TermSchedule`; None: always.
        adapter: turns tapped maps into what the loss takes (logits, labels), or its config; None: maps are taken as they
            are.
        progress: what counts as one step for losses that change over the training (`set_progress`): "epoch" or "iter".

    Raises:
        ValueError: an option of another kind or out of range; prompts are lacking, or given to a loss that has none.

    Example:
        ```python
        terms=dict(loss_freekd=dict(
            type='freqkd.DistillTerm', student='neck',
            align=dict(type='freqkd.ConvAlign', student_channels=32, teacher_channels=64, num_levels=5),
            loss=dict(type='freqkd.FreeKDLoss', channels=64, num_levels=5),
            prompts='work_dirs/prompts/prompts.pth', weight=dict(share=0.5)))
        ```
    """

    def __init__(
        self,
        loss: nn.Module | Mapping[str, Any],
        student: str = "neck",
        teacher: str | None = None,
        align: nn.Module | Mapping[str, Any] | None = None,
        weight: float | Mapping[str, Any] = 1.0,
        levels: Sequence[int] | None = None,
        prompts: str | None = None,
        schedule: Mapping[str, Any] | None = None,
        adapter: Adapter | Mapping[str, Any] | None = None,
        progress: str = "epoch",
    ) -> None:
        super().__init__()
        for name, path in (("student", student), ("teacher", teacher)):
            if not (isinstance(path, str) and path) and not (path is None and name == "teacher"):
                raise ValueError(f"{name} must be the path of a module, e.g. 'neck', got {path!r}")
        self.student_path = student
        self.teacher_path = teacher or student
        self.loss: nn.Module = build_part("loss", loss)
        self.align: nn.Module | None = build_part("align", align)
        self.weight = build_weight(weight)
        for name, part in (("loss", self.loss), ("align", self.align)):
            if not isinstance(part, nn.Module) and not (part is None and name == "align"):
                raise ValueError(f"{name} must be dict(type='freqkd....'), got {part!r}")
        check_levels(levels)
        self.levels = None if levels is None else tuple(levels)
        self.prompts = prompts
        self.schedule = make("schedule", TermSchedule, schedule)
        self.adapter: Adapter | None = build_part("adapter", adapter)
        if self.adapter is not None and not hasattr(self.adapter, "student_taps"):
            raise ValueError(f"adapter must be dict(type='freqkd....') of an adapter, got {adapter!r}")
        check_choice("progress", progress, ("epoch", "iter"))
        self.progress = progress
        if self.needs_prompts and not prompts:
            raise ValueError(
                f"{type(self.loss).__name__} needs trained prompts: add prompts='...' to the term (the prompts.pth that "
                "the prompt stage writes), or prompts='untrained' to go without"
            )
        if prompts is not None and not self.needs_prompts:
            raise ValueError(
                f"prompts must be left out: {type(self.loss).__name__} has no prompts to load, got {prompts!r}"
            )
        if not isinstance(prompts, (str, type(None))):
            raise ValueError(f"prompts must be a file or 'untrained', got {prompts!r}")

    @property
    def needs_prompts(self) -> bool:
        """Whether the loss has prompts that a first stage trains."""
        return bool(getattr(self.loss, "needs_prompts", False))

    @property
    def has_trained_prompts(self) -> bool:
        """Whether the loss's prompts come from a file."""
        return self.needs_prompts and self.prompts != "untrained"

    def prepare(self, teacher: Teacher) -> None:
        """Load the prompts and check that they were trained on this teacher, at this tap and for these levels.

        Raises:
            CheckpointError: missing or damaged file, prompts of another teacher, use, number or size.
        """
        if self.has_trained_prompts:
            prompts = getattr(self.loss, "prompts", None)
            use = describe_use(prompts, self.teacher_path, self.levels) if isinstance(prompts, nn.ModuleList) else None
            state = read_prompts(str(self.prompts), teacher, use)
            try:
                cast(Any, self.loss).load_prompts(state)
            except ValueError as error:
                raise CheckpointError(f"prompt checkpoint {self.prompts} does not fit this loss: {error}") from None

    def check_network(self, name: str, owner: str, network: nn.Module) -> None:
        """Check that a network has what this term taps, and a head of the kind that its loss is for.

        Args:
            name: the term's name, for the message.
            owner: "student" or "teacher".
            network: that network.

        Raises:
            ValueError: a path does not exist, or the head's activation is not the loss's.
        """
        own = self.student_path if owner == "student" else self.teacher_path
        paths = (*self.student_paths, *self.student_inputs) if owner == "student" else self.teacher_paths
        for path in dict.fromkeys(paths):
            try:
                find_module(network, path)
            except ValueError as error:
                place = f"terms.{name}.{owner}" if path == own else f"terms.{name}.adapter, in the {owner}"
                same = owner == "teacher" and path == self.student_path
                hint = "; where its path is not the student's, name it: teacher='...'" if same else ""
                raise ValueError(f"{place}: {error}{hint}") from None
        check_head = getattr(self.adapter, "check_head", None)
        if check_head is not None:
            try:
                check_head(network, own, self.loss, owner)
            except ValueError as error:
                raise ValueError(f"terms.{name}: {error}") from None

    def select(self, maps: list[Tensor], path: str, owner: str) -> list[Tensor]:
        """Return the maps of the chosen levels.

        Raises:
            ValueError: the module did not run, or has fewer maps than a level says.
        """
        if not maps:
            raise ValueError(
                f"{owner} module {path!r} did not run as a module in training, so there is nothing to tap: mmseg calls its "
                "heads, and some modules call their parts, past the hooks; tap a module inside it, e.g. "
                "'decode_head.conv_seg'"
            )
        if self.levels is None:
            return maps
        if max(self.levels) >= len(maps):
            raise ValueError(
                f"levels must be below {len(maps)}, the number of maps of {owner} {path!r}, got {self.levels}"
            )
        return [maps[level] for level in self.levels]

    @property
    def student_paths(self) -> tuple[str, ...]:
        """Everything tapped in the student for this term."""
        return (self.student_path, *(self.adapter.student_taps if self.adapter is not None else ()))

    @property
    def student_inputs(self) -> tuple[str, ...]:
        """Modules of the student whose calls' arguments are recorded for this term."""
        return tuple(getattr(self.adapter, "student_inputs", ()))

    @property
    def teacher_paths(self) -> tuple[str, ...]:
        """Everything tapped in the teacher for this term."""
        if self.adapter is None:
            return (self.teacher_path,)
        return () if self.adapter.asks_teacher else (self.teacher_path, *self.adapter.teacher_taps)

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
