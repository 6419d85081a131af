"""The contract of adapters, and the batch that they may look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from freqkd.teacher import CachedTeacher, Teacher


@dataclass(frozen=True)
class Batch:
    """One training batch, as both networks receive it.

    Attributes:
        inputs: images as the student's preprocessor made them, (N, 3, H, W).
        teacher_inputs: the same images, normalised as the teacher's preprocessor does.
        data_samples: their samples, with the ground truth.
        student: the student network.
        teacher: the teacher's holder.
        student_feats: `{path: maps}` of everything tapped in the student.
        teacher_feats: `{path: maps}` of everything tapped in the teacher.
        student_inputs: `{path: calls}` of the student's modules whose arguments an adapter asked for, a tuple for each call.
    """

    inputs: Tensor
    teacher_inputs: Tensor
    data_samples: Any
    student: nn.Module
    teacher: Teacher | CachedTeacher
    student_feats: Mapping[str, list[Tensor]]
    teacher_feats: Mapping[str, list[Tensor]]
    student_inputs: Mapping[str, list[tuple[Any, ...]]] = field(default_factory=dict)

    def teacher_neck(self) -> tuple[Tensor, ...]:
        """Return what the teacher's heads take: its neck's maps, or its backbone's where it has no neck.

        The teacher runs only if no term has tapped them.
        """
        path = "neck" if getattr(self.teacher.model, "with_neck", False) else "backbone"
        if path in self.teacher_feats:
            return tuple(self.teacher_feats[path])
        return tuple(self.teacher.extract(self.teacher_inputs, self.data_samples, [path])[path])


class HeadAdapter:
    """Turns what was tapped in a kind of head into the arguments of a loss: logits, labels, boxes, weights.

    A new one derives from this class, defines `__call__`, and sets what differs from the defaults below. It is registered as
    `freqkd.NAME` by standing in a module of `freqkd.adapters`.

    Attributes:
        student_taps: paths tapped in the student beside the term's own.
        teacher_taps: paths tapped in the teacher beside the term's own.
        student_inputs: modules of the student whose calls' arguments are recorded, found in `batch.student_inputs`.
        runs_teacher: True where the adapter runs the teacher itself, so that nothing is tapped there for it.
        compares_classes: False where nothing depends on which class is which, so that the networks may have other classes.
        shared: the classes that are compared where the networks have different ones; see `freqkd.adapters.classes`.
        reads_logits: True where it hands logits to the loss, before which no learned align may stand.
    """

    student_taps: tuple[str, ...] = ()
    teacher_taps: tuple[str, ...] = ()
    student_inputs: tuple[str, ...] = ()
    runs_teacher: bool = False
    compares_classes: bool = True
    shared: Any = None
    reads_logits: bool = False

    def check_head(self, network: nn.Module, path: str, loss: nn.Module, owner: str) -> None:
        """Check that a network has a head of the kind that the adapter and the loss are for; by default, anything is.

        Args:
            network: the student or the teacher.
            path: the term's tap in it.
            loss: the term's loss.
            owner: "student" or "teacher", for the message.

        Raises:
            ValueError: it has not.
        """

    def check_teacher(self, teacher: Teacher | CachedTeacher) -> None:
        """Read and check the files of a first stage that the adapter needs; by default, there are none.

        Args:
            teacher: the teacher's holder, whose network is built.

        Raises:
            CheckpointError: a file is missing or damaged, or was made for another teacher.
        """

    def identity(self) -> dict[str, str]:
        """Return the hashes of files that a resumed training must find unchanged, by argument; by default, there are none."""
        return {}

    def __call__(self, student_feats: list[Tensor], teacher_feats: list[Tensor], batch: Batch) -> dict[str, Any]:
        """Return the loss's arguments by name, e.g. `student`, `teacher` and `target`.

        `target` is left out again for losses whose `needs_target` is False.

        Args:
            student_feats: the maps of the term's tap in the student, aligned.
            teacher_feats: the maps of the term's tap in the teacher; empty where `runs_teacher`.
            batch: everything else that was tapped, the images and their samples.
        """
        raise NotImplementedError
