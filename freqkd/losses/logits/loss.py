"""Logit distillation: `LogitLoss` = softening x divergence x regions.

Every published method that is a choice of the three has a function of its own in `freqkd.losses.logits.methods`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from freqkd.losses.logits.divergence import DIVERGENCES, Divergence, SquaredError, build_divergence
from freqkd.losses.logits.regions import ScaleRegions, build_regions
from freqkd.losses.logits.softening import SOFTENINGS, Softening, build_softening
from freqkd.utils.checks import (
    LONGEST,
    check_at_least,
    check_choice,
    check_pyramids,
    check_same_shape,
    check_sequence,
    check_whole,
    common_dtype,
)

__all__ = ["LogitLoss"]

SAME_HEADS = "both heads need the same classes (or bins) and map sizes"

Logits = Tensor | Sequence[Tensor]


class _Rows(NamedTuple):
    """Samples: logits (M, C); labels, weights of the mean and factors of the regions, (M,) or None."""

    student: Tensor
    teacher: Tensor
    target: Tensor | None
    weight: Tensor | None
    factor: Tensor | None


def _name(choice: nn.Module, table: Mapping[str, type[nn.Module]]) -> str:
    return next((name for name, kind in table.items() if type(choice) is kind), type(choice).__name__)


def check_grid(softening: Softening, divergence: Divergence, activation: str) -> None:
    """Raise ValueError where a softening, a divergence and an activation make no sense together, saying why.

    >>> check_grid(build_softening("learned"), build_divergence("mse"), "softmax")
    Traceback (most recent call last):
    ...
    ValueError: softening 'learned' does not go with divergence 'mse': a temperature drops out of it; use 'fixed'
    """
    check_choice("activation", activation, ("softmax", "sigmoid"))
    soft, distance = _name(softening, SOFTENINGS), _name(divergence, DIVERGENCES)
    if activation not in divergence.activations:
        raise ValueError(f"divergence {distance!r} does not go with activation {activation!r}: {divergence.reason}")
    if activation not in softening.activations:
        raise ValueError(f"softening {soft!r} does not go with activation {activation!r}: {softening.reason}")
    if softening.learnable and divergence.cancels_temperature:
        reason = "a temperature drops out of it; use 'fixed'"
        raise ValueError(f"softening {soft!r} does not go with divergence {distance!r}: {reason}")


def check_ignore_index(value: int | None) -> None:
    """Raise ValueError unless `value` can be a label, or None, where every position counts."""
    if value is not None:
        check_whole("ignore_index", value, -LONGEST)


def _check_labels(target: Tensor, logits: Tensor, by_image: bool, ignore_index: int | None, num_labels: int) -> None:
    """Raise ValueError where labels do not fit the logits (N, C, *S) in type, shape or value."""
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise ValueError(f"target must hold integer labels, got {target.dtype}")
    shape, each = tuple(target.shape), (logits.shape[0], *logits.shape[2:])
    if shape != each and not (by_image and shape == each[:1]):
        also = f" or {each[:1]}, the images' labels" if by_image else ""
        raise ValueError(f"target must have the shape {each}{also} for logits {tuple(logits.shape)}, got {shape}")
    wrong = (target < 0) | (target >= num_labels)
    if ignore_index is not None:
        wrong &= target != ignore_index
    if bool(wrong.any()):
        raise ValueError(
            f"target must hold labels in 0..{num_labels - 1}, got {int(target[wrong][0])}; "
            "name the label of positions that do not count: ignore_index="
        )


def _levels(name: str, value: Any, count: int) -> list[Any]:
    """Return `value` (None, a tensor or one for each level) as a list with one entry for each of `count` levels."""
    levels = [value] * count if value is None else [value] if isinstance(value, Tensor) else list(value)
    if len(levels) != count:
        raise ValueError(f"{name} must have one entry for each of the {count} maps, got {len(levels)}")
    return levels


def flatten_positions(logits: Tensor) -> Tensor:
    """Make every position a row: (N, C, *S) -> (M, C), in the order of `labels.reshape(-1)` of labels (N, *S)."""
    return logits.movedim(1, -1).reshape(-1, logits.shape[1])


class LogitLoss(nn.Module):
    r"""Distil logits: soften both, compare, average over the samples.

    `loss_weight * sum_m a_m r_m D(soften(s_m), soften(t_m)) / sum_m a_m` with a_m the weight of a sample (1, its
    class's, its own) and r_m the factor of its region. Logits (N, C) or (N, C, *S): every position is a sample. A list
    of maps (the levels of a pyramid) is one set of samples: a level counts by its number of positions; regions take
    each level apart by itself.

    Positions labelled `ignore_index` are dropped before anything else. Without any valid position, and after the last
    epoch of an annealed softening, the loss is 0 and its gradient too. Half precision is computed in float32. The
    teacher gets no gradient.

    Args:
        softening: `fixed annealed normalized dynamic standardized learned`, as a name, a dict or an instance.
        divergence: `kl dkd nkd dist mse binary_kl quality_focal`, likewise.
        regions: None, or the arguments of `ScaleRegions`, e.g. `dict(scales=(1, 2, 4))`; maps (N, C, H, W) only.
        activation: what the head puts on its logits, "softmax" or "sigmoid". None: what the divergence is for; `dist` and
            `mse`, which are for both, take the head's where an adapter knows it, and "softmax" elsewhere.
        ignore_index: label of positions that do not count; needs `target`. None: every position counts; a loss that reads
            labels takes the label that the head ignores, where an adapter knows it.
        class_weight: weight of each class: a sample counts as its label does; the mean is weighted, as in cross
            entropy. A sigmoid head's may have one more, that of its background.
        loss_weight: factor on the loss.

    Shape:
        student, teacher: (N, C) or (N, C, *S), or a list of these. target: (N,) or (N, *S); with regions also (N,), the
        images' labels. A sigmoid head's background is C. weight: (N,) or (N, *S). Returns a scalar.

    Raises:
        ValueError: for choices that make no sense together (see `check_grid`), shapes that differ, labels out of range,
            a target that is needed and missing.

    Config::

        loss_logit=dict(
            student_tap='decode_head.conv_seg', teacher_tap='decode_head.conv_seg',
            loss=dict(type='freqkd.LogitLoss', softening=dict(type='standardized', tau=2.0), divergence='kl'),
            weight=9.0)

    References:
        Hinton et al., arXiv 1503.02531; the papers of each softening, divergence and region rule are named there.

    >>> _ = torch.manual_seed(0)
    >>> loss = LogitLoss(dict(type="normalized", tau=2.0), dict(type="dkd", beta=2.0), ignore_index=255)
    >>> student, teacher = torch.randn(2, 5, 4, 4), torch.randn(2, 5, 4, 4)
    >>> target = torch.randint(5, (2, 4, 4)); target[0] = 255
    >>> print(f"{loss(student, teacher, target).item():.4f}")
    1.5795
    """

    class_weight: Tensor | None

    def __init__(
        self,
        softening: Any = "fixed",
        divergence: Any = "kl",
        regions: Any = None,
        activation: str | None = None,
        ignore_index: int | None = None,
        class_weight: Sequence[float] | None = None,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.softening: Softening = build_softening(softening)
        self.divergence: Divergence = build_divergence(divergence)
        self.regions: ScaleRegions | None = build_regions(regions)
        suited = self.divergence.activations
        self._open = activation is None and len(suited) > 1
        activation = suited[0] if activation is None else activation
        check_grid(self.softening, self.divergence, activation)
        check_ignore_index(ignore_index)
        check_at_least("loss_weight", loss_weight, 0)
        self.activation, self.ignore_index, self.loss_weight = activation, ignore_index, loss_weight
        if class_weight is not None:
            check_sequence("class_weight", class_weight, "numbers, one for each class")
            for weight in class_weight:
                check_at_least("class_weight", weight, 0)
        weights = None if class_weight is None else torch.tensor([float(w) for w in class_weight])
        self.register_buffer("class_weight", weights, persistent=False)

    @property
    def needs_target(self) -> bool:
        """Whether a call without `target` is an error."""
        judged = self.regions is not None and self.regions.rule == "label"
        given = self.ignore_index is not None or self.class_weight is not None
        return self.divergence.needs_target or judged or given

    def take_activation(self, activation: str) -> None:
        """Take the activation of a head, where none was stated and the divergence leaves it open.

        Raises:
            ValueError: the softening does not go with it.

        >>> loss = LogitLoss(divergence="dist"); loss.take_activation("sigmoid"); loss.activation
        'sigmoid'
        """
        if self._open:
            check_grid(self.softening, self.divergence, activation)
            self.activation, self._open = activation, False

    @property
    def follows_progress(self) -> bool:
        """Whether `set_progress` changes anything."""
        return self.softening.follows_progress

    def set_progress(self, epoch: float) -> None:
        """Tell the softening how many epochs are finished (0 in the first one)."""
        self.softening.set_progress(epoch)

    def forward(
        self,
        student: Logits,
        teacher: Logits,
        target: Logits | None = None,
        *,
        weight: Logits | None = None,
        avg_factor: float | Tensor | None = None,
    ) -> Tensor:
        """Return the loss; `weight` counts a position, `avg_factor` (at least 1) divides, not the weights' sum."""
        students = [student] if isinstance(student, Tensor) else list(student)
        teachers = [teacher] if isinstance(teacher, Tensor) else list(teacher)
        check_pyramids(students, teachers)
        if target is None and self.needs_target:
            raise ValueError(
                "target must be given: the divergence, the regions, class_weight or ignore_index read the labels"
            )
        if weight is not None and self.regions is not None:
            raise ValueError("weight must be None with regions: a region holds positions of different weights")
        if avg_factor is not None and self.divergence.relational:
            raise ValueError(
                "avg_factor must be None with dist: a correlation over all samples is not a sum over samples"
            )
        targets, weights = _levels("target", target, len(students)), _levels("weight", weight, len(students))
        levels = [self._rows(*level) for level in zip(students, teachers, targets, weights)]
        rows = _Rows(*(None if x[0] is None else torch.cat(x) for x in zip(*levels)))  # type: ignore[arg-type]
        if not self.softening.active:
            return rows.student[:0].sum()  # of no element: 0 and attached to the graph whatever the logits hold
        pair = self.softening(rows.student, rows.teacher)
        pair.activation = self.activation
        count = torch.ones_like(rows.student[:, 0]) if rows.weight is None else rows.weight
        factor = count if rows.factor is None else count * rows.factor
        total: Tensor = (factor * self.divergence(pair, rows.target, factor)).sum()
        if avg_factor is None:
            known = count.sum()
            divisor = torch.where(known > 0, known, 1.0)
        else:
            divisor = torch.as_tensor(avg_factor, dtype=total.dtype, device=total.device).clamp(min=1.0)
        return self.loss_weight * total / divisor

    def _rows(self, student: Tensor, teacher: Tensor, target: Tensor | None, weight: Tensor | None) -> _Rows:
        """Turn one level into samples and drop the ignored ones."""
        check_same_shape(student, teacher, "logits", SAME_HEADS)
        if not (student.is_floating_point() and teacher.is_floating_point()):
            raise ValueError(
                f"student and teacher must hold floating point logits, got {student.dtype} and {teacher.dtype}"
            )
        if student.dim() < 2 or student.shape[1] < 1:
            raise ValueError(f"student must have the shape (N, C) or (N, C, *S), got {tuple(student.shape)}")
        if student.shape[1] == 1 and self.activation == "softmax" and not isinstance(self.divergence, SquaredError):
            raise ValueError(
                f"student must have at least two classes for activation='softmax', which is 1 everywhere over one, got "
                f"{tuple(student.shape)}; for a head with one channel set activation='sigmoid' and divergence='binary_kl'"
            )
        if self.regions is not None and (student.dim() != 4 or 0 in student.shape[2:]):
            raise ValueError(
                f"regions need a map (N, C, H, W) to take apart, got logits {tuple(student.shape)}; leave regions=None"
            )
        dtype = common_dtype(student, teacher)
        student, teacher = student.to(dtype), teacher.detach().to(dtype)
        by_image, ignore = self.regions is not None, self.ignore_index
        classes = student.shape[1]
        if target is not None:
            sigmoid = self.activation == "sigmoid"
            weights = classes if self.class_weight is None else len(self.class_weight)
            if weights not in (classes, classes + sigmoid):
                raise ValueError(f"class_weight must have {classes} entries, one for each class, got {weights}")
            short = sigmoid and self.class_weight is not None and weights == classes != ignore
            if short and bool((target == classes).any()):
                raise ValueError(
                    f"class_weight must have {classes + 1} entries, one for each class and for background, label {classes} "
                    f"of a sigmoid head, got {weights}"
                )
            background = sigmoid and not self.divergence.needs_target
            _check_labels(target, student, by_image, ignore, classes + background)
        factor = None
        if self.regions is not None:
            student, teacher, target, factor = self.regions(student, teacher, target, self.activation, ignore)
        else:
            if weight is not None and weight.shape != (student.shape[0], *student.shape[2:]):
                raise ValueError(
                    f"weight must have the shape of target, got {tuple(weight.shape)} for {tuple(student.shape)}"
                )
            student, teacher = flatten_positions(student), flatten_positions(teacher)
            target, weight = (None if x is None else x.reshape(-1) for x in (target, weight))
            if target is not None and ignore is not None:
                keep = target != ignore
                student, teacher, target = student[keep], teacher[keep], target[keep]
                weight = None if weight is None else weight[keep]
        weight = None if weight is None else weight.detach().to(dtype)
        if self.class_weight is not None and target is not None:
            by_class = self.class_weight.to(dtype)[target]
            weight = by_class if weight is None else weight * by_class
        return _Rows(student, teacher, target, weight, factor)
