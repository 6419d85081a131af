"""Feature maps with class scores as the weights of their positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from freqkd.adapters.base import Batch, HeadAdapter
from freqkd.adapters.dense import unfold_anchors
from freqkd.utils.checks import check_choice, check_levels, check_whole

WEIGHT_CHOICES = ("teacher", "difference")
ACTIVATION_CHOICES = ("sigmoid", "softmax")


class ScoreMaps(HeadAdapter):
    r"""Hand the tapped maps to a feature loss, with a weight for every position from the class scores at it.

    With the probabilities p of the classes c (of all anchors a, for the heads that have several):

    - "teacher": :math:`w = \max_{a, c} p^t_{a c}`, where the teacher sees an object;
    - "difference": :math:`w = \max_{a, c} |p^t_{a c} - p^s_{a c}|`, where student and teacher disagree.

    The loss takes them as `weight_maps`: `FreeKDLoss` does. Weights have no gradient.

    Args:
        head: path of the class predictor, e.g. "bbox_head.retina_cls" or "decode_head.conv_seg"; the same in both networks.
        num_classes: C.
        activation: of the head: "sigmoid" or "softmax" (over the classes).
        weight: "teacher" or "difference".
        levels: which of the predictor's maps belong to the term's maps; None: the first ones. One map serves all of them.

    Shape:
        The predictor's maps: (N, A * C, h, w). Weights: (N, 1, h, w), in [0, 1].

    Raises:
        ValueError: an argument is unknown or out of range; on use, a number of maps or channels that does not fit.

    References:
        The teacher's score as a weight: the distillation of Ultralytics' detectors, as its guide describes it. Differs: there
        the weighted sum is divided by the sum of the weights; here a gradient ratio as the term's weight sets the scale.

    Config::

        dict(type='freqkd.DistillTerm', student_tap='neck', student_levels=(0, 1, 2),
             adapter=dict(type='freqkd.ScoreMaps', head='bbox_head.retina_cls', num_classes=80),
             loss=dict(type='freqkd.FreeKDLoss', preset='details'), weight=dict(ratio=2.0))
    """

    def __init__(
        self,
        head: str,
        num_classes: int,
        activation: str = "sigmoid",
        weight: str = "teacher",
        levels: Sequence[int] | None = None,
    ) -> None:
        if not isinstance(head, str) or not head:
            raise ValueError(f"head must be the path of a class predictor, e.g. 'bbox_head.retina_cls', got {head!r}")
        check_whole("num_classes", num_classes, 1)
        check_choice("activation", activation, ACTIVATION_CHOICES)
        check_choice("weight", weight, WEIGHT_CHOICES)
        check_levels(levels, "levels")
        self.head, self.num_classes, self.activation = head, num_classes, activation
        self.weight, self.levels = weight, levels
        self.teacher_taps = (head,)
        self.student_taps = (head,) if weight == "difference" else ()

    def __call__(self, student_feats: list[Tensor], teacher_feats: list[Tensor], batch: Batch) -> dict[str, Any]:
        """Return `student_feats`, `teacher_feats` and `weight_maps`, one for each level."""
        with torch.no_grad():
            scores = self._scores(batch.teacher_feats[self.head], len(teacher_feats))
            if self.weight == "difference":
                own = self._scores(batch.student_feats[self.head], len(teacher_feats))
                scores = [(score - other).abs() for score, other in zip(scores, own)]
            weights = [score.flatten(1, 2).amax(1, keepdim=True) for score in scores]
        return dict(student_feats=student_feats, teacher_feats=teacher_feats, weight_maps=weights)

    def _scores(self, logits: list[Tensor], count: int) -> list[Tensor]:
        """Return the probabilities (N, C, A, h, w) for each of the term's maps."""
        chosen = logits * count if len(logits) == 1 else logits
        levels = self.levels or tuple(range(count))
        if len(levels) != count or max(levels) >= len(chosen):
            raise ValueError(
                f"levels must name one of the {len(logits)} maps of {self.head!r} for each of the term's {count} maps, got "
                f"{self.levels}"
            )
        maps = [unfold_anchors(chosen[level].float(), self.num_classes) for level in levels]
        return [one.sigmoid() if self.activation == "sigmoid" else one.softmax(1) for one in maps]
