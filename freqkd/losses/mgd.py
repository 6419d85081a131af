"""MGD: masked generative distillation, the squared error of teacher maps generated from masked student maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from freqkd.align import Maps, check_level_maps, per_level
from freqkd.losses.mse import squared_error
from freqkd.utils.checks import WIDEST, as_maps, check_at_least, check_same_shape, check_whole, upcast

__all__ = ["MGDLoss", "mgd_loss"]

Generate = Callable[[Tensor], Tensor]


def keep_mask(random: Tensor, masked_share: float) -> Tensor:
    """Return where uniform random numbers keep a position: all but a share of about `masked_share`.

    Args:
        random: numbers in [0, 1).
        masked_share: the share blanked out, 0 to 1; the authors' lambda.

    Raises:
        ValueError: `masked_share` lies outside 0 to 1.

    >>> keep_mask(torch.tensor([0.1, 0.3, 0.5, 0.9]), masked_share=0.6)
    tensor([ True,  True, False, False])
    """
    check_at_least("masked_share", masked_share, 0, most=1)
    return random <= 1 - masked_share


def mgd_loss(
    student: Maps,
    teacher: Maps,
    generate: Generate | Sequence[Generate],
    *,
    masked_share: float = 0.65,
    keep: Maps | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Return the squared error of the maps made from the student's masked maps, per image, added over the levels.

    .. math:: \sum_l \frac{1}{N} \sum_{n, c, i} \bigl(G_l(m_l \cdot s_l) - t_l\bigr)_{n c i}^2

    with m = 0 on a random share of the positions of each image, for all channels alike, and 1 elsewhere. The sum, not the
    mean, over channels and positions: hence the small weights of the authors. Under autocast G runs in half precision, as
    any layer does; the comparison runs in float32 at least.

    Args:
        student: a map or a list of maps, one per level.
        teacher: the teacher's maps, likewise; they receive no gradient.
        generate: G, from a masked student map to a map of the teacher's shape; one for all levels, or one per level.
        masked_share: share of the positions blanked out.
        keep: masks to use instead of random ones, one per level: 1 or True where a position is kept.
        generator: source of the random numbers, on the maps' device; None: torch's own.

    Shape:
        Maps: (N, C, H, W). `keep`: (N, 1, H, W). Output: a scalar.

    Raises:
        ValueError: numbers of maps, masks or `generate` differ; a mask or a made map has another shape; `masked_share`
            lies outside 0 to 1.

    References:
        Yang et al., arXiv 2205.01529, section 3. Differs from the paper, as its program does, in dividing by N.

    Example:
        >>> student, teacher = torch.ones(1, 1, 1, 4), torch.full((1, 1, 1, 4), 2.0)
        >>> mgd_loss(student, teacher, lambda x: 2 * x, keep=torch.tensor([[[[1, 0, 0, 1]]]])).item()  # two of 2^2
        8.0
    """
    pairs = as_maps(student, teacher)
    makers = list(generate) if isinstance(generate, Sequence) else [generate] * len(pairs)
    masks: list[Tensor | None] = [None] * len(pairs)
    if keep is not None:
        masks = [keep] if isinstance(keep, Tensor) else list(keep)
    for name, given in (("generate", makers), ("keep", masks)):
        if len(given) != len(pairs):
            raise ValueError(f"{name} must have one entry for each of the {len(pairs)} maps, got {len(given)}")
    losses = []
    for level, ((student_feat, teacher_feat), make, mask) in enumerate(zip(pairs, makers, masks)):
        shape = (student_feat.shape[0], 1, *student_feat.shape[2:])
        if mask is None:
            mask = keep_mask(torch.rand(shape, generator=generator, device=student_feat.device), masked_share)
        elif tuple(mask.shape) != shape:
            raise ValueError(f"keep[{level}] must have shape (N, 1, H, W) = {shape}, got {tuple(mask.shape)}")
        made = make(student_feat * mask.to(student_feat))
        check_same_shape(made, teacher_feat, f"features of level {level}, generated,")
        with torch.autocast(student_feat.device.type, enabled=False):
            losses.append(squared_error(upcast(made), upcast(teacher_feat.detach()), "sum") / len(student_feat))
    return torch.stack(losses).sum()


class GenerationBlock(nn.Sequential):
    """Make a map from a masked one: convolution 3 x 3, ReLU, convolution 3 x 3.

    Args:
        channels: of the map, in and out.

    >>> GenerationBlock(4)(torch.ones(1, 4, 5, 7)).shape
    torch.Size([1, 4, 5, 7])
    """

    def __init__(self, channels: int) -> None:
        check_whole("channels", channels, 1, most=WIDEST)
        first, second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        super().__init__(first, nn.ReLU(), second)

    def forward(self, feat: Tensor) -> Tensor:
        """Return the made map, in the precision of the weights or of autocast."""
        # Half precision maps may come from an autocast region that ended before the loss.
        feat = feat.to(cast(nn.Conv2d, self[0]).weight.dtype)
        for layer in self:
            feat = layer(feat)
        return feat


class MGDLoss(nn.Module):
    """`mgd_loss` with a `GenerationBlock` per level, times `loss_weight`.

    The blocks are trained with the student and dropped with the teacher.

    Args:
        channels: of the maps, a number or one per level; where the student's differ, add a `ConvAlign`.
        num_levels: pyramid levels.
        masked_share: share of the positions blanked out. The authors take 0.65 for one-stage detectors, 0.45 for two-stage
            ones, 0.75 for segmentation.
        loss_weight: factor on the result. The authors' alpha: 2e-5 for one-stage detectors and segmentation, 5e-7 for
            two-stage detectors.

    Attributes:
        blocks: ModuleList, a `GenerationBlock` per level.

    Shape:
        student_feats, teacher_feats: num_levels maps (N, channels, H, W), or one map. Output: a scalar.

    Raises:
        ValueError: an argument out of range; maps that are not num_levels, or do not fit.

    References:
        Yang et al., arXiv 2205.01529. The channel mask of its classification part is left out.

    Config::

        dict(type='freqkd.MGDLoss', channels=256, num_levels=5, masked_share=0.65, loss_weight=2e-5)

    Example:
        >>> _ = torch.manual_seed(0)
        >>> loss = MGDLoss(channels=4, num_levels=1, loss_weight=1.0)
        >>> student, teacher = torch.randn(2, 1, 4, 8, 8)
        >>> f"{loss(student, teacher, generator=torch.Generator().manual_seed(0)).item():.0f}"
        '296'
    """

    def __init__(
        self,
        channels: int | Sequence[int],
        num_levels: int,
        masked_share: float = 0.65,
        loss_weight: float = 2e-5,
    ) -> None:
        super().__init__()
        check_at_least("loss_weight", loss_weight, 0)
        keep_mask(torch.zeros(1), masked_share)
        self.channels = per_level("channels", channels, num_levels)
        self.blocks = nn.ModuleList(GenerationBlock(width) for width in self.channels)
        self.masked_share = masked_share
        self.loss_weight = loss_weight

    def forward(
        self,
        student_feats: Maps,
        teacher_feats: Maps,
        *,
        keep: Maps | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the weighted loss; `keep` and `generator` as in `mgd_loss`."""
        check_level_maps(student_feats, teacher_feats, self.channels)
        loss = mgd_loss(
            student_feats,
            teacher_feats,
            [cast(GenerationBlock, block) for block in self.blocks],
            masked_share=self.masked_share,
            keep=keep,
            generator=generator,
        )
        return self.loss_weight * loss
