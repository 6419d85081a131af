"""Class logits of dense heads, one row for each anchor of each position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from freqkd.adapters.base import Batch, HeadAdapter
from freqkd.adapters.classes import build_shared
from freqkd.adapters.heads import HeadKind, check_activation, check_num_classes, describe_head, find_head
from freqkd.utils.checks import check_choice, check_whole
from freqkd.utils.processes import mean_over_processes

NORMALIZER_CHOICES = ("samples", "boxes")


def unfold_anchors(logits: Tensor, num_classes: int) -> Tensor:
    """Split the channels of a class map into anchors and classes: (N, A * C, H, W) -> (N, C, A, H, W).

    mmdet's heads order their channels by anchor, then by class.

    Raises:
        ValueError: the number of channels is not a multiple of `num_classes`.

    >>> import torch
    >>> unfold_anchors(torch.arange(6.0).reshape(1, 6, 1, 1), num_classes=2)[0, :, :, 0, 0]
    tensor([[0., 2., 4.],
            [1., 3., 5.]])
    """
    channels = logits.shape[1]
    if channels % num_classes:
        raise ValueError(
            f"the channels of a class map must be a multiple of num_classes={num_classes}, got {channels}; "
            "tap the class predictor, e.g. 'bbox_head.retina_cls'"
        )
    return logits.unflatten(1, (channels // num_classes, num_classes)).transpose(1, 2)


def class_maps(maps: Sequence[Any]) -> Sequence[Any]:
    """Return the first map of each level of what a whole dense head returns, its class maps: those of boxes come after them.

    >>> import torch
    >>> [tuple(one.shape) for one in class_maps([torch.zeros(1, c, s, s) for c in (3, 4) for s in (8, 4)])]
    [(1, 3, 8, 8), (1, 3, 4, 4)]
    """
    sizes = [tuple(one.shape[2:]) for one in maps]
    return maps[: sizes.index(sizes[0], 1)] if sizes and sizes[0] in sizes[1:] else maps


def unfold_class_map(logits: Tensor, kind: HeadKind | None, num_classes: int | None) -> Tensor:
    """Split the channels of a head's class map as `unfold_anchors` does, by what the head says, else by `num_classes`.

    Raises:
        ValueError: the channels are not those of the head's anchors and classes.
    """
    channels = num_classes if kind is None or kind.channels is None else kind.channels
    if channels is None:
        raise ValueError("num_classes must be given where no head says it, got None; set it to the number of classes")
    unfolded = unfold_anchors(logits, channels)
    if kind is not None and kind.anchors and unfolded.shape[2] not in kind.anchors:
        raise ValueError(
            f"the channels of a class map of {kind.name} must be {kind.layout}, got {logits.shape[1]}; tap the class "
            "predictor, e.g. 'bbox_head.retina_cls'"
        )
    return unfolded


class DenseLogits(HeadAdapter):
    """Hand the class maps of all levels to a logit loss; every anchor of every position is a sample.

    For RetinaNet (`bbox_head.retina_cls`), FCOS (`bbox_head.conv_cls`), ATSS (`bbox_head.atss_cls`), GFL
    (`bbox_head.gfl_cls`) and their like. Their heads say whether the classes are independent (sigmoid, as in all of these) or
    exclude each other (softmax, with background as the last class). Student and teacher need the same anchors per position.

    Args:
        num_classes: C; None: as each head says.
        normalizer: "samples" for a mean over all anchors; "boxes" for a sum over the anchors, divided by the number of
            ground-truth boxes, averaged over processes. The papers divide by the number of positive anchors, which only
            the head's assigner knows, and which is roughly proportional to the number of boxes. With a gradient ratio as
            the term's weight, the divisor does not matter.
        classes: None where both networks have the same classes in the same order. "shared": the classes that both have by name,
            as `freqkd train` finds them in the data and in the teacher's checkpoint; or pairs of indices (student, teacher).
            The loss then runs over these and the background of a softmax head.

    Raises:
        ValueError: an argument out of range; a loss for the other kind of head; a head with another number of classes; on
            use, channels that are not those of the head's anchors and classes.

    Config::

        loss_kd=dict(
            type='freqkd.DistillTerm', student_tap='bbox_head.retina_cls', weight=dict(ratio=0.5),
            adapter=dict(type='freqkd.DenseLogits'),
            loss=dict(type='freqkd.LogitLoss', divergence='quality_focal', activation='sigmoid'))
    """

    reads_logits = True

    def __init__(
        self,
        num_classes: int | None = None,
        normalizer: str = "samples",
        classes: str | Sequence[Sequence[int]] | None = None,
    ) -> None:
        if num_classes is not None:
            check_whole("num_classes", num_classes, 1)
        check_choice("normalizer", normalizer, NORMALIZER_CHOICES)
        self.num_classes, self.normalizer = num_classes, normalizer
        self.shared = build_shared(classes)
        self._heads: dict[str, HeadKind | None] = {}

    def check_head(self, network: nn.Module, path: str, loss: nn.Module, owner: str) -> None:
        """Check that the loss and `num_classes` are for the tapped head of a network, and read what the head says."""
        kind = describe_head(network, path)
        check_num_classes(self.num_classes, kind, owner)
        check_activation(find_head(network, path), loss, owner)
        self._heads[owner] = kind

    def __call__(self, student_feats: list[Tensor], teacher_feats: list[Tensor], batch: Batch) -> dict[str, Any]:
        """Return `student` and `teacher`: the levels' logits (N, C, A, H, W); and `avg_factor` where boxes divide."""
        student, teacher = self._unfold(student_feats, "student"), self._unfold(teacher_feats, "teacher")
        for ours, theirs in zip(student, teacher):
            if ours.shape[2] != theirs.shape[2]:
                raise ValueError(
                    "student and teacher must have the same anchors at a position, got "
                    f"{ours.shape[2]} and {theirs.shape[2]}, which no align changes; give both heads the same anchors, or "
                    "distil their features, e.g. at the neck"
                )
        divisor = dict(avg_factor=count_boxes(batch)) if self.normalizer == "boxes" else {}
        return dict(student=student, teacher=teacher, **divisor)

    def _unfold(self, maps: list[Tensor], owner: str) -> list[Tensor]:
        kind = self._heads.get(owner)
        logits = [unfold_class_map(level, kind, self.num_classes) for level in maps]
        if self.shared is None:
            return logits
        background = kind is not None and kind.activation == "softmax"
        return [self.shared.select(level, owner, background=background) for level in logits]


def count_boxes(batch: Batch) -> Tensor:
    """Return the number of ground-truth boxes of a batch, averaged over processes."""
    boxes = sum(len(sample.gt_instances) for sample in batch.data_samples)
    return mean_over_processes(boxes, batch.inputs.device)
