"""Class logits of dense heads, one row for each anchor of each position."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from freqkd.adapters.base import Batch, HeadAdapter
from freqkd.losses.logits.divergence import DIVERGENCES
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


class DenseLogits(HeadAdapter):
    """Hand the class maps of all levels to a logit loss; every anchor of every position is a sample.

    For heads with sigmoid class maps: RetinaNet (`bbox_head.retina_cls`), FCOS (`bbox_head.conv_cls`), ATSS
    (`bbox_head.atss_cls`), GFL (`bbox_head.gfl_cls`). Student and teacher need the same anchors per position.

    Args:
        num_classes: C.
        normalizer: "samples" for a mean over all anchors; "boxes" for a sum over the anchors, divided by the number of
            ground-truth boxes, averaged over processes. The papers divide by the number of positive anchors, which only
            the head's assigner knows, and which is roughly proportional to the number of boxes. With a gradient ratio as
            the term's weight, the divisor does not matter.

    Raises:
        ValueError: an argument out of range; a loss for the other kind of head; on use, channels that are not a multiple
            of `num_classes`.

    Config::

        loss_kd=dict(
            type='freqkd.DistillTerm', student_tap='bbox_head.retina_cls', weight=dict(ratio=0.5),
            adapter=dict(type='freqkd.DenseLogits', num_classes=80),
            loss=dict(type='freqkd.LogitLoss', divergence='quality_focal', activation='sigmoid'))
    """

    def __init__(self, num_classes: int, normalizer: str = "samples") -> None:
        check_whole("num_classes", num_classes, 1)
        check_choice("normalizer", normalizer, NORMALIZER_CHOICES)
        self.num_classes, self.normalizer = num_classes, normalizer

    def check_head(self, network: nn.Module, path: str, loss: nn.Module, owner: str) -> None:
        """Check that the loss is for the tapped head of a network; see `check_activation`."""
        check_activation(find_head(network, path), loss, owner)

    def __call__(self, student_feats: list[Tensor], teacher_feats: list[Tensor], batch: Batch) -> dict[str, Any]:
        """Return `student` and `teacher`: the levels' logits (N, C, A, H, W); and `avg_factor` where boxes divide."""
        student, teacher = (
            [unfold_anchors(level, self.num_classes) for level in maps] for maps in (student_feats, teacher_feats)
        )
        divisor = dict(avg_factor=count_boxes(batch)) if self.normalizer == "boxes" else {}
        return dict(student=student, teacher=teacher, **divisor)


def check_activation(head: Any, loss: Any, owner: str) -> None:
    """Check that a logit loss has the activation of a head: sigmoid for independent classes, softmax for one of all.

    Args:
        head: a head whose class loss has `use_sigmoid`; a head without it is not checked.
        loss: a loss with an `activation`; a loss without it is not checked.
        owner: "student" or "teacher", for the message.

    Raises:
        ValueError: they differ.
    """
    given = getattr(loss, "activation", None)
    found = getattr(head, "use_sigmoid_cls", getattr(getattr(head, "loss_cls", None), "use_sigmoid", None))
    wanted = "sigmoid" if found else "softmax"
    if found is None or given not in ("softmax", "sigmoid") or given == wanted:
        return
    words = [word for word, kind in DIVERGENCES.items() if wanted in kind.activations]
    raise ValueError(
        f"the loss's activation must be {wanted!r}, as the {owner}'s {type(head).__name__} has use_sigmoid={bool(found)}, "
        f"got {given!r}; set activation={wanted!r}, with a divergence for it: {', '.join(words)}"
    )


def find_head(network: nn.Module, path: str) -> nn.Module | None:
    """Return the outermost module on a tap's path that has a class loss, None without one.

    >>> head = nn.ModuleDict(dict(loss_cls=nn.Identity(), conv=nn.Identity()))
    >>> find_head(nn.ModuleDict(dict(bbox_head=head)), "bbox_head.conv") is head
    True
    """
    parts = path.split(".")
    for length in range(1, len(parts) + 1):
        module = network.get_submodule(".".join(parts[:length]))
        if hasattr(module, "loss_cls") or hasattr(module, "use_sigmoid_cls"):
            return module
    return None


def count_boxes(batch: Batch) -> Tensor:
    """Return the number of ground-truth boxes of a batch, averaged over processes."""
    boxes = sum(len(sample.gt_instances) for sample in batch.data_samples)
    return mean_over_processes(boxes, batch.inputs.device)
