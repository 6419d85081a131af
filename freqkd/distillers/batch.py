"""What a term may look at beside the maps it taps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from freqkd.distillers.teacher import Teacher


@dataclass(frozen=True)
class Batch:
    """One training batch, as both networks met it.

    Attributes:
        inputs: images as the student's preprocessor made them.
        teacher_inputs: the same images, normalised the teacher's way.
        data_samples: their samples, with the ground truth.
        student: the student network.
        teacher: the teacher's holder.
        seen: `{path: maps}` of everything tapped in the student.
        taught: `{path: maps}` of everything tapped in the teacher.
        fed: `{path: calls}` of the student's modules whose arguments an adapter asked for, a tuple for each call.
    """

    inputs: Tensor
    teacher_inputs: Tensor
    data_samples: Any
    student: nn.Module
    teacher: Teacher
    seen: Mapping[str, list[Tensor]]
    taught: Mapping[str, list[Tensor]]
    fed: Mapping[str, list[tuple[Any, ...]]] = field(default_factory=dict)

    def teacher_feats(self) -> tuple[Tensor, ...]:
        """Return what the teacher's heads take: its neck's maps, its backbone's where it has no neck.

        The teacher runs only if no term has tapped them.
        """
        path = "neck" if getattr(self.teacher.model, "with_neck", False) else "backbone"
        if path in self.taught:
            return tuple(self.taught[path])
        return tuple(self.teacher.extract(self.teacher_inputs, self.data_samples, [path])[path])


class Adapter(Protocol):
    """Turns what was tapped into what a loss takes: logits for features, labels, weights.

    Attributes:
        student_taps: paths tapped in the student beside the term's own.
        teacher_taps: paths tapped in the teacher beside the term's own.
        asks_teacher: True where the adapter runs the teacher itself, so that nothing is tapped there for it.

    An adapter may also have `student_inputs`, paths of the student whose calls' arguments it finds in `batch.fed`, and
    `check_head(network, path, loss, owner)`, which raises ValueError where the loss is not for a network's head.
    """

    student_taps: tuple[str, ...]
    teacher_taps: tuple[str, ...]
    asks_teacher: bool

    def __call__(self, student: list[Tensor], teacher: list[Tensor], batch: Batch) -> dict[str, Any]:
        """Return the loss's arguments by name, e.g. `student`, `teacher` and `target`."""
        ...
