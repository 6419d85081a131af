"""Set-prediction heads (DETR and its family): the student's queries meet the teacher's that mean the same object."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from freqkd.adapters.dense import check_activation
from freqkd.checks import check_at_least, check_choice, check_flag, check_whole, upcast
from freqkd.distillers.batch import Batch

MATCHING_CHOICES = ("hungarian", "identity")
HEAD = "bbox_head"


def corners(boxes: Tensor) -> Tensor:
    """Turn boxes (cx, cy, w, h) into (x1, y1, x2, y2).

    >>> corners(torch.tensor([0.5, 0.5, 0.5, 1.0]))
    tensor([0.2500, 0.0000, 0.7500, 1.0000])
    """
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


def pairwise_giou(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return the GIoU of every box (Q, 4) with every other (K, 4), both as corners: (Q, K).

    >>> pairwise_giou(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[0.0, 0, 2, 4], [2, 2, 4, 4]]))
    tensor([[ 0.5000, -0.5000]])
    """
    a, b = ours[:, None], theirs[None]
    areas = [(x[..., 2:] - x[..., :2]).clamp(min=0).prod(-1) for x in (a, b)]
    overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    union = (areas[0] + areas[1] - overlap).clamp(min=1e-6)
    hull = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    area = hull.clamp(min=0).prod(-1).clamp(min=1e-6)
    return overlap / union - (area - union) / area


class QueryLogits:
    """Match the student's queries to the teacher's, image by image and layer by layer, and hand on their class logits.

    For detectors of mmdet's DETR family (DETR, Conditional, DAB, Deformable, DINO), whose `bbox_head` returns class
    scores (layers, N, Q, C) and boxes (layers, N, Q, 4) as (cx, cy, w, h) in shares of the image. In the student that
    output is tapped as it trains; the teacher's is asked for here, in eval mode, from its neck's maps. A student trained
    with denoising queries has them in front: the last `num_queries` are matched.

    `hungarian` is the assignment of least total cost, a pair's being `class_cost` times the sum of its absolute
    differences of the class probabilities, `box_cost` times that of the boxes, `iou_cost` times 1 - GIoU. Of unequal
    numbers of queries the larger side's surplus stays out. `identity` pairs by number, for a student whose queries are
    the teacher's (`inherit`).

    The rows of a softmax head hold "no object" as the last of their C entries, those of a sigmoid head do not.

    Args:
        matching: "hungarian" or "identity".
        layers: how many decoder layers count, from the last one; paired last with last.
        class_cost: weight of the classes in the matching.
        box_cost: weight of the boxes' distance.
        iou_cost: weight of their overlap.
        target: whether `target` is given, the class that the student's own assigner gives each query (C without an
            object), for divergences that read labels; costs another assignment.

    Raises:
        ValueError: an argument out of range; a loss for the other kind of head; on use, heads of another family, or
            unequal numbers under `identity`.
        ImportError: on use, scipy is missing.

    Config::

        loss_kd=dict(
            type='freqkd.DistillTerm', student='bbox_head', adapter=dict(type='freqkd.QueryLogits'),
            loss=dict(type='freqkd.LogitLoss', divergence='kl'))  # DINO: 'quality_focal', activation='sigmoid'

    References:
        Costs as in Carion et al., arXiv 2005.12872, between two predictions instead of a prediction and an object.
    """

    student_taps: tuple[str, ...] = (HEAD,)
    teacher_taps: tuple[str, ...] = ()
    asks_teacher = True

    def __init__(
        self,
        matching: str = "hungarian",
        layers: int = 1,
        class_cost: float = 1.0,
        box_cost: float = 5.0,
        iou_cost: float = 2.0,
        target: bool = False,
    ) -> None:
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
                f"{type(teacher).__name__}; other heads have adapters of their own"
            )

    def __call__(self, student: list[Tensor], teacher: list[Tensor], batch: Batch) -> dict[str, Any]:
        """Return `student` and `teacher` rows (R, C) of all pairs, and `target` (R,) where asked."""
        head: Any = batch.student.bbox_head
        scores, boxes = self._outputs(batch.seen[HEAD], batch.student, "student")
        found = self.ask(batch)
        if min(len(scores), len(found[0])) < self.layers:
            raise ValueError(
                f"layers must be at most the decoder layers of both heads, {len(scores)} of the student and "
                f"{len(found[0])} of the teacher, got {self.layers}"
            )
        sigmoid = bool(getattr(getattr(head, "loss_cls", None), "use_sigmoid", False))
        ours, theirs, labels = [], [], []
        for layer in range(-self.layers, 0):
            assigned = self._labels(head, scores[layer], boxes[layer], batch) if self.target else None
            for image in range(scores.shape[1]):
                rows, columns = self.match(
                    scores[layer, image], boxes[layer, image], found[0][layer, image], found[1][layer, image], sigmoid
                )
                ours.append(scores[layer, image][rows])
                theirs.append(found[0][layer, image][columns])
                if assigned is not None:
                    labels.append(assigned[image][rows])
        pairs: dict[str, Any] = dict(student=torch.cat(ours), teacher=torch.cat(theirs))
        return {**pairs, "target": torch.cat(labels)} if self.target else pairs

    @torch.no_grad()
    def ask(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the teacher's class scores and boxes, with its own queries."""
        model = batch.teacher.model
        self._check_family(model)
        model.eval()  # in training it would add denoising queries
        answer = model.bbox_head(**model.forward_transformer(batch.teacher_feats(), batch.data_samples))
        return self._outputs(list(answer), model, "teacher")

    @staticmethod
    def _outputs(maps: list[Tensor], model: Any, owner: str) -> tuple[Tensor, Tensor]:
        """Check a head's outputs and leave denoising queries out."""
        fits = len(maps) == 2 and all(x.dim() == 4 for x in maps) and maps[0].shape[:3] == maps[1].shape[:3]
        if not fits or maps[1].shape[3] != 4:
            raise ValueError(
                f"the {owner}'s {HEAD} must return class scores (layers, N, Q, C) and boxes (layers, N, Q, 4), got "
                f"{[tuple(x.shape) for x in maps]}; QueryLogits is for heads of the DETR family"
            )
        if hasattr(model, "dense_topk_ratio"):
            raise ValueError(
                f"the {owner} must have its matched queries last, got {type(model).__name__}, whose dense ones follow; "
                "use DETR, Conditional, DAB, Deformable DETR or DINO"
            )
        count = int(getattr(model, "num_queries", maps[0].shape[2]))
        return maps[0][:, :, -count:], maps[1][:, :, -count:]

    @torch.no_grad()
    def match(
        self, cls_student: Tensor, box_student: Tensor, cls_teacher: Tensor, box_teacher: Tensor, sigmoid: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the numbers of paired queries of one image: (K,) of the student, (K,) of the teacher.

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
                "class scores"
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
        cost = cost + self.costs["iou_cost"] * (1 - pairwise_giou(corners(a), corners(b)))
        # A diverging student's queries still find partners; the loss then shows what happened.
        pairs = linear_sum_assignment(torch.nan_to_num(cost, nan=1e6, posinf=1e6).cpu().numpy())
        rows, columns = (torch.as_tensor(x, dtype=torch.long, device=device) for x in pairs)
        return rows, columns

    @staticmethod
    def _labels(head: Any, scores: Tensor, boxes: Tensor, batch: Batch) -> list[Tensor]:
        """Let the student's head assign the objects of a batch to its queries: (Q,) for each image."""
        truths = [sample.gt_instances for sample in batch.data_samples]
        metas = [sample.metainfo for sample in batch.data_samples]
        labels: list[Tensor] = head.get_targets(list(scores.detach()), list(boxes.detach()), truths, metas)[0]
        return labels
