"""Class logits of DETR-family heads, the student's queries matched to the teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from freqkd.adapters.base import Batch, HeadAdapter
from freqkd.adapters.classes import build_shared
from freqkd.adapters.heads import activation_of, check_activation
from freqkd.losses.boxes import box_iou
from freqkd.utils.checks import check_at_least, check_choice, check_flag, check_whole, upcast

MATCHING_CHOICES = ("hungarian", "identity")
HEAD = "bbox_head"


def corners(boxes: Tensor) -> Tensor:
    """Turn boxes (cx, cy, w, h) into (x1, y1, x2, y2).

    >>> corners(torch.tensor([0.5, 0.5, 0.5, 1.0]))
    tensor([0.2500, 0.0000, 0.7500, 1.0000])
    """
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


class QueryLogits(HeadAdapter):
    """Match the student's queries to the teacher's, by image and decoder layer, and hand their class logits to a loss.

    For detectors of mmdet's DETR family (DETR, Conditional, DAB, Deformable, DINO), whose `bbox_head` returns class
    scores (layers, N, Q, C) and boxes (layers, N, Q, 4) as (cx, cy, w, h), relative to the image's size. The student's
    output is tapped in training; the adapter runs the teacher's transformer and head itself, in eval mode, on the maps of
    the teacher's neck. Denoising queries stand before the others: the last `num_queries` are matched.

    "hungarian" is the assignment of least total cost. The cost of a pair is `class_cost` times the sum of the absolute
    differences of its class probabilities, plus `box_cost` times that of its boxes, plus `iou_cost` times 1 - GIoU. Where
    one network has more queries, those that remain are left out. "identity" pairs equal indices, for a student that
    inherits the teacher's queries (`inherit`).

    The rows of a softmax head have "no object" as the last of their C entries, those of a sigmoid head do not.

    Args:
        matching: "hungarian" or "identity".
        layers: number of decoder layers that are compared, counted from the last one.
        class_cost: weight of the class probabilities in the matching.
        box_cost: weight of the distance of the boxes.
        iou_cost: weight of the overlap of the boxes.
        target: whether `target` is returned, the class that the student's assigner gives each query (C without an
            object), for divergences that need labels; this runs the assigner once more.
        classes: None where both networks have the same classes in the same order. "shared": the classes that both have by name,
            as `freqkd train` finds them in the data and in the teacher's checkpoint; or pairs of indices (student, teacher).
            Matching and loss then use these and "no object" alone; queries of another class count as without an object.

    Raises:
        ValueError: an argument out of range; a loss for the other kind of head; on use, heads of another family, or
            unequal numbers of queries with "identity".
        ImportError: on use, scipy is missing.

    Config::

        loss_kd=dict(
            type='freqkd.DistillTerm', student_tap='bbox_head', adapter=dict(type='freqkd.QueryLogits'),
            loss=dict(type='freqkd.LogitLoss', divergence='kl'))  # DINO: 'quality_focal', activation='sigmoid'

    References:
        Costs as in Carion et al., arXiv 2005.12872, there between a prediction and an object.
    """

    student_taps = (HEAD,)
    runs_teacher = True
    reads_logits = True

    def __init__(
        self,
        matching: str = "hungarian",
        layers: int = 1,
        class_cost: float = 1.0,
        box_cost: float = 5.0,
        iou_cost: float = 2.0,
        target: bool = False,
        classes: str | Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.shared = build_shared(classes)
        check_choice("matching", matching, MATCHING_CHOICES)
        check_whole("layers", layers, 1)
        check_flag("target", target)
        self.costs = dict(class_cost=class_cost, box_cost=box_cost, iou_cost=iou_cost)
        for name, value in self.costs.items():
            check_at_least(name, value, 0)
        self.matching, self.layers, self.target = matching, layers, target

    def check_head(self, network: nn.Module, path: str, loss: nn.Module, owner: str) -> None:
        """Check that a teacher has a transformer, and that the loss is for a network's head; see `check_activation`."""
        if owner == "teacher":
            self._check_family(network)
        check_activation(getattr(network, HEAD, None), loss, owner)

    @staticmethod
    def _check_family(teacher: Any) -> None:
        if not hasattr(teacher, "forward_transformer"):
            raise ValueError(
                f"the teacher must be of mmdet's DETR family, with a transformer before its head, got "
                f"{type(teacher).__name__}; use the adapter of its kind of head"
            )

    def __call__(self, student_feats: list[Tensor], teacher_feats: list[Tensor], batch: Batch) -> dict[str, Any]:
        """Return `student` and `teacher` rows (R, C) of all pairs, and `target` (R,) if `self.target`."""
        head: Any = batch.student.bbox_head
        scores, boxes = self._outputs(batch.student_feats[HEAD], batch.student, "student")
        teacher_scores, teacher_boxes = self.teacher_outputs(batch)
        if min(len(scores), len(teacher_scores)) < self.layers:
            raise ValueError(
                f"layers must be at most the number of decoder layers, {len(scores)} in the student and "
                f"{len(teacher_scores)} in the teacher, got {self.layers}"
            )
        sigmoid = activation_of(head) == "sigmoid"
        student, teacher, labels = [], [], []
        for layer in range(-self.layers, 0):
            assigned = self._labels(head, scores[layer], boxes[layer], batch) if self.target else None
            for image in range(scores.shape[1]):
                logits, teacher_logits = scores[layer, image], teacher_scores[layer, image]
                if self.shared is not None:
                    logits = self.shared.select(logits, "student", background=not sigmoid)
                    teacher_logits = self.shared.select(teacher_logits, "teacher", background=not sigmoid)
                places, teacher_places = boxes[layer, image], teacher_boxes[layer, image]
                rows, columns = self.match(logits, places, teacher_logits, teacher_places, sigmoid)
                student.append(logits[rows])
                teacher.append(teacher_logits[columns])
                if assigned is not None:
                    labels.append(assigned[image][rows])
        pairs: dict[str, Any] = dict(student=torch.cat(student), teacher=torch.cat(teacher))
        if not self.target:
            return pairs
        target = torch.cat(labels)
        if self.shared is not None:
            target = self.shared.relabel(target, other=len(self.shared.indices["student"]))
        return {**pairs, "target": target}

    @torch.no_grad()
    def teacher_outputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the teacher's class scores (layers, N, Q, C) and boxes (layers, N, Q, 4)."""
        model = batch.teacher.model
        self._check_family(model)
        model.eval()  # in training mode it would add denoising queries
        outputs = model.bbox_head(**model.forward_transformer(batch.teacher_neck(), batch.data_samples))
        return self._outputs(list(outputs), model, "teacher")

    @staticmethod
    def _outputs(maps: list[Tensor], model: Any, owner: str) -> tuple[Tensor, Tensor]:
        """Check a head's outputs, and return them without denoising queries."""
        fits = len(maps) == 2 and all(x.dim() == 4 for x in maps) and maps[0].shape[:3] == maps[1].shape[:3]
        if not fits or maps[1].shape[3] != 4:
            raise ValueError(
                f"the {owner}'s {HEAD} must return class scores (layers, N, Q, C) and boxes (layers, N, Q, 4), got "
                f"{[tuple(x.shape) for x in maps]}; QueryLogits is for heads of the DETR family"
            )
        if hasattr(model, "dense_topk_ratio"):
            raise ValueError(
                f"the {owner} must have its matched queries last, got {type(model).__name__}, which has dense queries after "
                "them; use DETR, Conditional, DAB, Deformable DETR or DINO"
            )
        count = int(getattr(model, "num_queries", maps[0].shape[2]))
        return maps[0][:, :, -count:], maps[1][:, :, -count:]

    @torch.no_grad()
    def match(
        self, cls_student: Tensor, box_student: Tensor, cls_teacher: Tensor, box_teacher: Tensor, sigmoid: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the indices of the paired queries of one image: (K,) of the student, (K,) of the teacher.

        Args:
            cls_student: class logits (Q, C).
            box_student: boxes (Q, 4).
            cls_teacher: class logits (Q', C).
            box_teacher: boxes (Q', 4).
            sigmoid: whether the classes are independent.
        """
        device = cls_student.device
        if cls_student.shape[1] != cls_teacher.shape[1]:
            raise ValueError(
                f"student and teacher must have the same classes, got {cls_student.shape[1]} and {cls_teacher.shape[1]} "
                "class scores; compare those that both have: classes='shared'"
            )
        if self.matching == "identity":
            if len(cls_student) != len(cls_teacher):
                raise ValueError(
                    f"matching='identity' needs equal numbers of queries, got {len(cls_student)} and "
                    f"{len(cls_teacher)}; use matching='hungarian'"
                )
            every = torch.arange(len(cls_student), device=device)
            return every, every
        try:
            from scipy.optimize import linear_sum_assignment
        except ImportError as error:
            raise ImportError("matching='hungarian' needs scipy, which is not installed: pip install scipy") from error
        p, q = (upcast(x).sigmoid() if sigmoid else upcast(x).softmax(1) for x in (cls_student, cls_teacher))
        a, b = upcast(box_student), upcast(box_teacher)
        cost = self.costs["class_cost"] * torch.cdist(p, q, p=1) + self.costs["box_cost"] * torch.cdist(a, b, p=1)
        cost = cost + self.costs["iou_cost"] * (1 - box_iou(corners(a)[:, None], corners(b)))
        # A student whose outputs are not finite gets pairs, too; its loss then shows the problem.
        pairs = linear_sum_assignment(torch.nan_to_num(cost, nan=1e6, posinf=1e6).cpu().numpy())
        rows, columns = (torch.as_tensor(x, dtype=torch.long, device=device) for x in pairs)
        return rows, columns

    @staticmethod
    def _labels(head: Any, scores: Tensor, boxes: Tensor, batch: Batch) -> list[Tensor]:
        """Return the class that the student's assigner gives each query: (Q,) for each image."""
        truths = [sample.gt_instances for sample in batch.data_samples]
        metas = [sample.metainfo for sample in batch.data_samples]
        labels: list[Tensor] = head.get_targets(list(scores.detach()), list(boxes.detach()), truths, metas)[0]
        return labels
