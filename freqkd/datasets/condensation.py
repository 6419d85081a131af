"""Knowledge condensation of a data set (KCD): the value of every image to the student, and the share that is kept.

Only tensors are here. The sampler that draws what is kept is `condensed_sampler`, what measures the values is
`freqkd.hooks.condensation`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from freqkd.utils.checks import check_choice


def prediction_entropy(logits: Tensor, activation: str, dim: int = 1) -> Tensor:
    r"""Return the entropy of the predicted classes, in nats.

    Softmax: :math:`-\sum_c p_c \log p_c`. Sigmoid: :math:`-\sum_c (p_c \log p_c + (1 - p_c) \log (1 - p_c))`, that of C
    decisions of their own. A probability of 0 or 1 gives 0.

    Args:
        logits: of any shape.
        activation: "softmax" or "sigmoid".
        dim: the dimension of the classes, which is summed over.

    >>> prediction_entropy(torch.zeros(1, 4), "softmax").exp()
    tensor([4.])
    >>> prediction_entropy(torch.tensor([[0.0, 1e4]]), "sigmoid").exp()
    tensor([2.])
    """
    check_choice("activation", activation, ("softmax", "sigmoid"))
    if activation == "softmax":
        return torch.special.entr(logits.softmax(dim)).sum(dim)
    return (torch.special.entr(logits.sigmoid()) + torch.special.entr((-logits).sigmoid())).sum(dim)


class ImageValues:
    r"""The value of every image to the student: the mean of the entropies that were measured on it, :math:`V^F`.

    The paper keeps it online, :math:`V^F = ((F - 1) V^{F - 1} + V) / F`, F the number of measurements, and ranks images by
    :math:`V^F F^\alpha`: of two equal means, that of the image which was seen more often counts more.

    Args:
        count: number of images.

    >>> values = ImageValues(3)
    >>> values.update([(0, 1.0), (2, 5.0), (0, 2.0)])
    >>> values.mean.tolist(), values.seen.tolist()
    ([1.5, 0.0, 5.0], [2, 0, 1])
    >>> values.scores(alpha=1.0).tolist()
    [3.0, -inf, 5.0]
    """

    def __init__(self, count: int) -> None:
        self.mean = torch.zeros(count, dtype=torch.float64)
        self.seen = torch.zeros(count, dtype=torch.long)

    def update(self, measured: Iterable[tuple[int, float]]) -> None:
        """Add measurements, (index, entropy), one after the other; an image may come several times."""
        for index, entropy in measured:
            self.seen[index] += 1
            self.mean[index] += (entropy - self.mean[index]) / self.seen[index]

    def scores(self, alpha: float) -> Tensor:
        """Return what images are ranked by; minus infinity for images that were never seen."""
        return torch.where(self.seen > 0, self.mean * self.seen.double() ** alpha, -torch.inf)


def kept_counts(images: int, keep: float, stages: int) -> list[int]:
    """Return the number of images that are kept at first, and after each stage, in steps of equal size.

    >>> kept_counts(60, 0.7, 6)
    [60, 57, 54, 51, 48, 45, 42]
    """
    dropped = images - max(round(keep * images), 1)
    return [images - stage * dropped // stages for stage in range(stages + 1)]


@dataclass(frozen=True)
class Stage:
    """What a stage keeps.

    Attributes:
        kept: indices of the images that are kept, the most valuable first.
        dropped: as many as the set has shrunk by: those that come next in the ranking.
    """

    kept: Tensor
    dropped: Tensor

    def summary(self, strength: float) -> dict[int, tuple[int, float]]:
        r"""Return the pairs of KCD's summary augmentation: `{kept image: (dropped image, rate)}`.

        The least valuable kept images each take up one of the dropped ones, both in the order of their values. The i-th of L
        pairs, from 0, keeps its image at the rate :math:`1 - \epsilon i / L`, with :math:`\epsilon` the strength, 0.3 in the
        paper; the dropped image has the rest.

        >>> Stage(torch.tensor([4, 1, 3]), torch.tensor([0, 2])).summary(0.5)
        {1: (0, 1.0), 3: (2, 0.75)}
        """
        count = min(len(self.kept), len(self.dropped))
        tail = self.kept[len(self.kept) - count :].tolist()
        pairs = enumerate(zip(tail, self.dropped[:count].tolist(), strict=True))
        return {image: (other, 1 - strength * i / count) for i, (image, other) in pairs}


def condense(scores: Tensor, before: int, keep: int) -> Stage:
    """Rank all images by their scores, and keep the first ones.

    Images that were dropped earlier are ranked, too, by what they were worth then: they may come back.

    Args:
        scores: of all images, see `ImageValues.scores`. Equal ones are ranked by their index.
        before: number of images that were kept so far.
        keep: number of images to keep.

    >>> condense(torch.tensor([0.1, 0.9, 0.5, 0.2]), before=3, keep=2)
    Stage(kept=tensor([1, 2]), dropped=tensor([3]))
    """
    order = scores.argsort(descending=True, stable=True)
    return Stage(order[:keep], order[keep:before])


def blend(image: Tensor, other: Tensor, rate: float) -> Tensor:
    """Return rate * image + (1 - rate) * other; in the image's type, whole numbers are rounded down.

    Args:
        image: (C, H, W).
        other: (C, h, w), resized to the image where it is larger or smaller.
        rate: from 0 to 1.

    >>> blend(torch.full((1, 1, 2), 100, dtype=torch.uint8), torch.zeros(1, 2, 4, dtype=torch.uint8), 0.75)
    tensor([[[75, 75]]], dtype=torch.uint8)
    """
    second = other.double()
    if second.shape != image.shape:
        second = F.interpolate(second[None], size=image.shape[-2:], mode="bilinear", antialias=True)[0]
    return (rate * image.double() + (1 - rate) * second).to(image.dtype)
