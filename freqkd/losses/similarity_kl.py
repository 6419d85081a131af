"""Divergence of the similarities between positions of an image, as student and teacher see them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from freqkd.align import Maps
from freqkd.losses.cosine import unit_vectors
from freqkd.utils.checks import as_maps, check_at_least, check_positive, check_whole, upcast

__all__ = ["SimilarityKLLoss", "similarity_kl_loss"]

MOST_POSITIONS = 2**14


def similarity_kl_loss(
    student: Maps,
    teacher: Maps,
    *,
    tau: float = 0.07,
    num_positions: int = 256,
    positions: Sequence[Tensor | None] | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Return the mean divergence of the similarities of every position with the others, added over the levels.

    .. math:: \sum_l \mathrm{mean}_{n, i} \sum_{j \ne i} q_{i j} \log \frac{q_{i j}}{p_{i j}},\quad
        p_{i \cdot} = \mathrm{softmax}_{j \ne i} (\cos(s_i, s_j) / \tau),\
        q_{i \cdot} = \mathrm{softmax}_{j \ne i} (\cos(t_i, t_j) / \tau)

    It says which positions of an image look alike, not what they look like, so networks of different width need no align, and
    a rotation of the channels changes nothing. A position is not compared with itself: that similarity is 1 everywhere, and
    would take most of the softmax.

    Larger maps than `num_positions` are compared at so many positions, drawn for each level and call, the same for all images
    and for both networks. So memory is N * num_positions^2 whatever the size of the map. Numbers are drawn on the CPU: the same
    ones with every device, and part of the random state that a checkpoint holds.

    Args:
        student: a map or a list of maps, one per level.
        teacher: the teacher's maps, likewise; they receive no gradient.
        tau: temperature of both softmaxes.
        num_positions: positions that are compared, at most.
        positions: for each level, the indices of the positions (in 0 to H * W - 1) in place of drawn ones; None draws.
        generator: source of the random numbers, on the CPU; None: torch's own.

    Shape:
        Maps: (N, C, H, W); C may differ. Output: a scalar.

    Raises:
        ValueError: numbers of maps, batch sizes or sizes of maps differ, or an argument is out of range.

    References:
        The dense part of LightlyTrain's third distillation, as its program has it. Differs in leaving out the diagonal, and in
        drawing positions.

    Example:
        >>> student = torch.tensor([[[[1.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]]]])  # the first two positions are alike
        >>> teacher = torch.tensor([[[[1.0, 1.0, 1.0]]]])  # all are
        >>> round(similarity_kl_loss(student, teacher, tau=1.0).item(), 4)  # two rows of log(cosh(1 / 2))
        0.0801
    """
    check_positive("tau", tau)
    check_whole("num_positions", num_positions, 2, most=MOST_POSITIONS)
    pairs = as_maps(student, teacher)
    given = [None] * len(pairs) if positions is None else list(positions)
    if len(given) != len(pairs):
        raise ValueError(f"positions must have one entry for each of the {len(pairs)} maps, got {len(given)}")
    losses = []
    for level, ((student_feat, teacher_feat), chosen) in enumerate(zip(pairs, given)):
        if student_feat.shape[::2] != teacher_feat.shape[::2] or student_feat.shape[3] != teacher_feat.shape[3]:
            raise ValueError(
                f"student and teacher features of level {level} must have the same N, H and W, got "
                f"{tuple(student_feat.shape)} and {tuple(teacher_feat.shape)}; add align=dict(type='freqkd.ConvAlign', ..., "
                "resize='teacher'), or choose levels of the same strides"
            )
        count = student_feat.shape[2] * student_feat.shape[3]
        if chosen is None and count > num_positions:
            chosen = torch.randperm(count, generator=generator)[:num_positions]
        with torch.autocast(student_feat.device.type, enabled=False):
            own, other = (_log_similarities(feat, chosen, tau) for feat in (student_feat, teacher_feat.detach()))
            # A single position has no others: an empty sum over one row.
            losses.append((other.exp() * (other - own)).sum(-1).mean())
    return torch.stack(losses).sum()


def _log_similarities(feat: Tensor, positions: Tensor | None, tau: float) -> Tensor:
    """Return the logarithms of the softmax over the other positions, (N, K, K - 1)."""
    vectors = upcast(feat).flatten(2)
    if positions is not None:
        vectors = vectors.index_select(2, positions.to(vectors.device))
    unit = unit_vectors(vectors)
    logits = unit.mT @ unit / tau
    images, count = logits.shape[:2]
    # Without its first number, the flat matrix has a number of the diagonal at the end of every K + 1.
    others = logits.flatten(1)[:, 1:].reshape(images, count - 1, count + 1)[..., :-1].reshape(images, count, count - 1)
    return others.log_softmax(-1)


class SimilarityKLLoss(nn.Module):
    """`similarity_kl_loss` times `loss_weight`.

    Config::

        dict(type='freqkd.SimilarityKLLoss', tau=0.07, num_positions=256)

    Example:
        >>> student, teacher = torch.tensor([[[[1.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]]]]), torch.tensor([[[[1.0, 1.0, 1.0]]]])
        >>> round(SimilarityKLLoss(tau=1.0, loss_weight=10.0)(student, teacher).item(), 3)
        0.801
    """

    def __init__(self, tau: float = 0.07, num_positions: int = 256, loss_weight: float = 1.0) -> None:
        super().__init__()
        check_positive("tau", tau)
        check_whole("num_positions", num_positions, 2, most=MOST_POSITIONS)
        check_at_least("loss_weight", loss_weight, 0)
        self.tau, self.num_positions, self.loss_weight = tau, num_positions, loss_weight

    def forward(self, student_feats: Maps, teacher_feats: Maps) -> Tensor:
        """Return the weighted loss."""
        loss = similarity_kl_loss(student_feats, teacher_feats, tau=self.tau, num_positions=self.num_positions)
        return self.loss_weight * loss
