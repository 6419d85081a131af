"""Feature maps with class scores as the weights of their positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from freqkd.adapters.base import Batch, HeadAdapter
from freqkd.adapters.dense import unfold_class_map
from freqkd.adapters.heads import ROWS, HeadKind, check_num_classes, describe_head
from freqkd.utils.checks import check_choice, check_levels, check_whole

WEIGHT_CHOICES = ("teacher", "difference")
ACTIVATION_CHOICES = ("sigmoid", "softmax")


class ScoreMaps(HeadAdapter):
    r"""Hand the tapped maps to a feature loss, with a weight for every position from the class scores at it.

    With the probabilities p of the classes c (of all anchors a, for the heads that have several):

    - "teacher": :math:`w = \max_{a, c} p^t_{a c}`, where the teacher sees an object;
    - "difference": :math:`w = \max_{a, c} |p^t_{a c} - p^s_{a c}|`, where student and teacher disagree.

    The background of a softmax detection head does not count. The loss takes the weights as `weight_maps`: `FreeKDLoss` and
    `WeightedMSELoss` do. Weights have no gradient.

    The head must give a score at every position. The box heads of two-stage detectors do not, theirs are of proposals; the
    head of the proposals does, `head="rpn_head.rpn_cls"`, whose objectness stands for the classes. DETR and its like have none.

    Args:
        head: path of the class predictor, e.g. "bbox_head.retina_cls" or "decode_head.conv_seg"; the same in both networks.
        num_classes: C; None: as each head says.
        activation: of the head: "sigmoid" or "softmax" (over the classes); None: as each head says, "sigmoid" where it does
            not.
        weight: "teacher" or "difference".
        levels: which of the predictor's maps belong to the term's maps; None: the first ones. One map serves all of them.

    Shape:
        The predictor's maps: (N, A * C, h, w), or (N, A * (C + 1), h, w) with background. Weights: (N, 1, h, w), in [0, 1].

    Raises:
        ValueError: an argument is unknown or out of range; a head with another number of classes or activation, or without
            scores at positions; on use, a number of maps or channels that does not fit.

    References:
        The teacher's score as a weight: the distillation of Ultralytics' detectors, as its guide describes it.
        `WeightedMSELoss` divides by the sum of the weights; `FreeKDLoss` leaves the scale to a gradient ratio as the weight.

    Config::

        dict(type='freqkd.DistillTerm', student_tap='neck', student_levels=(0, 1, 2),
             adapter=dict(type='freqkd.ScoreMaps', head='bbox_head.retina_cls'),
             loss=dict(type='freqkd.FreeKDLoss', preset='details'), weight=dict(ratio=2.0))
    """

    def __init__(
        self,
        head: str,
        num_classes: int | None = None,
        activation: str | None = None,
        weight: str = "teacher",
        levels: Sequence[int] | None = None,
    ) -> None:
        if not isinstance(head, str) or not head:
            raise ValueError(f"head must be the path of a class predictor, e.g. 'bbox_head.retina_cls', got {head!r}")
        if num_classes is not None:
            check_whole("num_classes", num_classes, 1)
        if activation is not None:
            check_choice("activation", activation, ACTIVATION_CHOICES)
        if activation == "softmax" and num_classes == 1:
            raise ValueError(
                "num_classes must be at least 2 for activation='softmax', which is 1 everywhere over one class, got 1; for a "
                "head with one channel set activation='sigmoid'"
            )
        check_choice("weight", weight, WEIGHT_CHOICES)
        check_levels(levels, "levels")
        self.head, self.num_classes, self.activation = head, num_classes, activation
        self.weight, self.levels = weight, levels
        self.compares_classes = weight == "difference"
        self.teacher_taps = (head,)
        self.student_taps = (head,) if weight == "difference" else ()
        self._heads: dict[str, HeadKind | None] = {}

    def check_head(self, network: nn.Module, path: str, loss: nn.Module, owner: str) -> None:
        """Check that a network's head scores positions, by `num_classes` and `activation`, and read what the head says."""
        if owner == "student" and not self.student_taps:
            return
        kind = describe_head(network, self.head)
        if kind is not None and kind.family in ROWS:
            rows, _ = ROWS[kind.family]
            others = (
                "take the head of the proposals, e.g. head='rpn_head.rpn_cls', or MSELoss without weights"
                if kind.family == "proposals"
                else "take MSELoss without weights"
            )
            raise ValueError(
                f"head must be a class predictor with scores at every position, got {self.head!r} of the {owner}'s "
                f"{kind.name}, whose scores are of {rows}; {others}"
            )
        check_num_classes(self.num_classes, kind, owner)
        if kind is not None and None not in (kind.activation, self.activation) and kind.activation != self.activation:
            raise ValueError(
                f"activation must be {kind.activation!r}, as in the {owner}'s {kind.name}, got {self.activation!r}; leave it "
                "out, and the head's is taken"
            )
        self._heads[owner] = kind

    def __call__(self, student_feats: list[Tensor], teacher_feats: list[Tensor], batch: Batch) -> dict[str, Any]:
        """Return `student_feats`, `teacher_feats` and `weight_maps`, one for each level."""
        with torch.no_grad():
            scores = self._scores(batch.teacher_feats[self.head], len(teacher_feats), "teacher")
            if self.weight == "difference":
                own = self._scores(batch.student_feats[self.head], len(teacher_feats), "student")
                scores = [(score - other).abs() for score, other in zip(scores, own)]
            weights = [score.flatten(1, 2).amax(1, keepdim=True) for score in scores]
        return dict(student_feats=student_feats, teacher_feats=teacher_feats, weight_maps=weights)

    def _scores(self, logits: list[Tensor], count: int, owner: str) -> list[Tensor]:
        """Return the probabilities (N, C, A, h, w) for each of the term's maps."""
        chosen = logits * count if len(logits) == 1 else logits
        levels = self.levels or tuple(range(count))
        if len(levels) != count or max(levels) >= len(chosen):
            raise ValueError(
                f"levels must name one of the {len(logits)} maps of {self.head!r} for each of the term's {count} maps, got "
                f"{self.levels}"
            )
        kind = self._heads.get(owner)
        maps = [unfold_class_map(chosen[level].float(), kind, self.num_classes) for level in levels]
        activation = self.activation or (None if kind is None else kind.activation) or "sigmoid"
        classes = None if kind is None or kind.binary else kind.num_classes
        return [(one.sigmoid() if activation == "sigmoid" else one.softmax(1))[:, :classes] for one in maps]
