"""A head behind the band: student maps, or their details alone, in the teacher's head or in one trained on details (DS2D2)."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from freqkd.adapters.base import Batch
from freqkd.adapters.cross_head import HEAD, CrossHead
from freqkd.losses.freekd.wavelets import DEEPEST, without_low
from freqkd.teacher import CachedTeacher, Teacher
from freqkd.teacher.teacher import freeze_statistics
from freqkd.utils.checkpoints import STATE, CheckpointError, hash_weights, load_strict, read_checkpoint
from freqkd.utils.checks import check_choice, check_whole
from freqkd.utils.paths import find_file, where_looked

BAND_CHOICES = ("all", "details")
HEAD_PREFIX, DEPTH_KEY = "band_head.", "band_depth"  # of the tensors of a band head stage


def find_bbox_head(network: nn.Module) -> nn.Module:
    """Return the `bbox_head` of a detector.

    Raises:
        ValueError: it has none.
    """
    head = getattr(network, HEAD, None)
    if not isinstance(head, nn.Module):
        raise ValueError(
            f"the teacher must have a dense bbox_head, as RetinaNet, FCOS, ATSS and GFL do, got {type(network).__name__}"
        )
    return head


class BandHead(CrossHead):
    """Predict from the student's maps, or from their details alone, with a frozen head of the teacher.

    Student maps go as they are (`CrossHead` gives them the teacher's statistics first) through all of a head; the teacher's
    maps, treated likewise, through the same head. The predictions of the student's maps are compared with those of the
    teacher's; gradients reach the student only. So a band is taught by what it does to the predictions, not coefficient by
    coefficient.

    - `bands="all"`: whole maps, the teacher's own head: the "full frequency" of the paper;
    - `bands="details"`, `head=...`: details in a head that `BandHeadTuner` has trained on the teacher's details: its "high
      frequency";
    - `bands="details"` alone: details in the teacher's own head, which has never seen a map without its low band.

    Features of another width than the teacher's need the term's `align`.

    Args:
        bands: "all" or "details".
        head: checkpoint of a `BandHeadTuner` of the same teacher; None: the teacher's own head.
        depth: levels of the Haar transform whose details count, see `without_low`; None: as `head` says, else 1.
        cls: see `CrossHead`.
        reg: see `CrossHead`.
        centerness: see `CrossHead`.
        num_classes: see `CrossHead`.

    Raises:
        ValueError: an argument is unknown or out of range; see `CrossHead`.
        CheckpointError: `head` is missing or damaged, or was trained on another teacher or with another depth.

    References:
        DS2D2, arXiv 2512.04413, its implicit half. Its explicit half is a squared error of the bands, weighted by boxes:
        `freekd_loss` with `norm="l2"`. Differs from the released program in what the details are: see `BandHeadTuner`.

    Config::

        loss_band=dict(
            type='freqkd.DistillTerm', student_tap='neck',
            adapter=dict(type='freqkd.BandHead', bands='details', head='work_dirs/.../epoch_4.pth'),
            loss=dict(type='freqkd.CrossKDBoxLoss'))
    """

    def __init__(
        self,
        bands: str = "all",
        head: str | None = None,
        depth: int | None = None,
        cls: str = "retina_cls",
        reg: str | None = "retina_reg",
        centerness: str | None = None,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(0, cls, reg, centerness, num_classes)
        check_choice("bands", bands, BAND_CHOICES)
        if head is not None and not (isinstance(head, (str, os.PathLike)) and head):
            raise ValueError(f"head must be the checkpoint of a BandHeadTuner, or None, got {head!r}")
        if depth is not None:
            check_whole("depth", depth, 1, most=DEEPEST)
        if bands == "all" and (head is not None or depth is not None):
            raise ValueError(
                f"head and depth must be None for bands='all', got head={head!r} and depth={depth}; they are for "
                "bands='details'"
            )
        self.bands, self.head, self.depth = bands, head, depth
        self._own: nn.Module | None = None  # read by `check_teacher`

    def check_teacher(self, teacher: Teacher | CachedTeacher) -> None:
        """Read the head, and check that it was trained on this teacher."""
        if self.head is None:
            return
        path = find_file(self.head)
        if not os.path.isfile(path):
            raise CheckpointError(
                f"band head not found: {path}; train it first (freqkd train BAND_HEAD_CONFIG), or check the path"
                f"{where_looked(path)}"
            )
        checkpoint = read_checkpoint(path)
        state: Any = checkpoint.get("state_dict")
        state = state if isinstance(state, Mapping) else {}
        weights = {key[len(HEAD_PREFIX) :]: value for key, value in state.items() if key.startswith(HEAD_PREFIX)}
        made_for = checkpoint.get(STATE, {}).get("identity", {}).get("model.teacher")
        if not weights or not isinstance(state.get(DEPTH_KEY), Tensor) or made_for is None:
            raise CheckpointError(f"{path} is not a checkpoint of a BandHeadTuner; name one that its training wrote")
        if made_for != teacher.hash:
            raise CheckpointError(
                f"band head {path} was made for another teacher (weights {made_for[:12]}, this teacher {teacher.hash[:12]}, "
                f"{teacher.checkpoint}); train the head on this teacher"
            )
        depth = int(state[DEPTH_KEY])
        if self.depth not in (None, depth):
            raise CheckpointError(
                f"band head {path} was trained with depth={depth}, but is used with depth={self.depth}; leave depth out"
            )
        self.depth = depth
        head = copy.deepcopy(find_bbox_head(teacher.model))
        load_strict(head, weights, f"band head {path}")
        freeze_statistics(head.requires_grad_(False).train())
        self._own = head

    def identity(self) -> dict[str, str]:
        """Return the hash of the head, which a resumed training must find unchanged."""
        return {} if self._own is None else {"head": hash_weights(self._own.state_dict())}

    def __call__(self, student_feats: list[Tensor], teacher_feats: list[Tensor], batch: Batch) -> dict[str, Any]:
        """Return the loss's arguments for the neck's maps of both networks."""
        if self.bands == "details":
            depth = self.depth or 1
            student_feats, teacher_feats = (
                [without_low(feature, depth) for feature in feats] for feats in (student_feats, teacher_feats)
            )
        return super().__call__(student_feats, teacher_feats, batch)

    def choose_heads(self, batch: Batch) -> tuple[Any, Any]:
        """Return the student's head, which assigns targets, and the frozen one that predicts."""
        student, teacher = super().choose_heads(batch)
        return student, teacher if self._own is None else self._own.to(batch.inputs.device)

    def fit(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the student's map as it is."""
        return student
