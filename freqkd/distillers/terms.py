"""One term of a distillation: where to look in both networks, how to align, which loss, how much and when."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any, cast

from mmengine.logging import MessageHub
from torch import Tensor, nn

from freqkd.checkpoints import CheckpointError, read_checkpoint
from freqkd.checks import check_choice
from freqkd.distillers.batch import Adapter, Batch
from freqkd.distillers.schedules import TermSchedule
from freqkd.distillers.teacher import Teacher
from freqkd.distillers.weights import build_weight
from freqkd.registry import MODELS

TEACHER_HASH = "teacher_hash"


def build_part(config: nn.Module | Mapping[str, Any]) -> nn.Module:
    """Build a loss or an align of its config; an instance is taken as it is."""
    return config if isinstance(config, nn.Module) else MODELS.build(copy.deepcopy(dict(config)))


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
        self.student_path = student
        self.teacher_path = teacher or student
        self.loss = build_part(loss)
        self.align = build_part(align) if align is not None else None
        self.weight = build_weight(weight)
        self.levels = None if levels is None else tuple(levels)
        if self.levels is not None and (not self.levels or min(self.levels) < 0):
            raise ValueError(f"levels must be indices of tapped maps from 0 on, at least one, got {self.levels}")
        self.prompts = prompts
        self.schedule = TermSchedule(**schedule) if schedule is not None else None
        self.adapter: Adapter | None = MODELS.build(dict(adapter)) if isinstance(adapter, Mapping) else adapter
        check_choice("progress", progress, ("epoch", "iter"))
        self.progress = progress
        if self.needs_prompts and not prompts:
            raise ValueError(
                f"{type(self.loss).__name__} needs trained prompts: add prompts='...' to the term (the prompts.pth that "
                "the prompt stage writes), or prompts='untrained' to go without"
            )

    @property
    def needs_prompts(self) -> bool:
        """Whether the loss has prompts that a first stage trains."""
        return hasattr(self.loss, "load_prompts")

    def prepare(self, teacher: Teacher) -> None:
        """Load the prompts and check that they were trained on this teacher.

        Raises:
            CheckpointError: missing or damaged file, prompts of another teacher, or of another number or size.
        """
        if self.needs_prompts and self.prompts != "untrained":
            state = read_prompts(str(self.prompts), teacher)
            try:
                cast(Any, self.loss).load_prompts(state)
            except ValueError as error:
                raise CheckpointError(f"prompt checkpoint {self.prompts} does not fit this loss: {error}") from None

    def select(self, maps: list[Tensor], path: str, owner: str) -> list[Tensor]:
        """Return the maps of the chosen levels.

        Raises:
            ValueError: the module did not run, or has fewer maps than a level says.
        """
        if not maps:
            raise ValueError(
                f"{owner} module {path!r} did not run in training, so there is nothing to tap; heads are often called "
                "past their hooks: tap a module inside it, e.g. 'decode_head.conv_seg' or 'bbox_head.retina_cls'"
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


def read_prompts(path: str, teacher: Teacher) -> dict[str, Tensor]:
    """Read a prompt checkpoint made for this teacher; see `DistillTerm.prepare` for what it raises."""
    if not os.path.isfile(path):
        raise CheckpointError(
            f"prompt checkpoint not found: {path}; train the prompts first (python tools/train.py PROMPT_CONFIG)"
        )
    checkpoint = read_checkpoint(path)
    state = {key: value for key, value in checkpoint.get("state_dict", checkpoint).items() if isinstance(value, Tensor)}
    stamp = state.pop(TEACHER_HASH, None)
    if stamp is None:
        raise CheckpointError(f"{path} is no prompt checkpoint: it names no teacher; use the file of the prompt stage")
    named = bytes(stamp.tolist()).hex()
    if named != teacher.hash:
        raise CheckpointError(
            f"prompt checkpoint {path} was made for another teacher (weights {named[:12]}, this teacher "
            f"{teacher.hash[:12]}, {teacher.checkpoint}); train prompts on this teacher"
        )
    return state
