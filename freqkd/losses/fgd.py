"""FGD: focal distillation of objects and background, weighted by attention, and global distillation of relations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqkd.align import Maps, check_level_maps, per_level
from freqkd.utils.checks import (
    WIDEST,
    as_maps,
    check_at_least,
    check_positive,
    check_same_shape,
    check_whole,
    common_dtype,
    upcast,
)

__all__ = ["FGDLoss", "fgd_loss", "fgd_terms"]

Context = Callable[[Tensor], Tensor]
Sizes = Sequence[Sequence[int]]


def feature_attention(feat: Tensor, tau: float = 0.5) -> tuple[Tensor, Tensor]:
    r"""Return how much each position and each channel of a map counts, mean 1 each.

    .. math:: S = H W\, \mathrm{softmax}_{i}\Bigl(\tfrac{1}{C} \sum_c |F_{c i}| / \tau\Bigr),\quad
        A = C\, \mathrm{softmax}_{c}\Bigl(\tfrac{1}{H W} \sum_i |F_{c i}| / \tau\Bigr)

    Args:
        feat: (N, C, H, W).
        tau: temperature.

    Returns:
        S (N, H, W) and A (N, C).

    >>> spatial, channel = feature_attention(torch.tensor([[[[1.0, 1.0]], [[2.0, 2.0]]]]), tau=1.0)
    >>> spatial, channel
    (tensor([[[1., 1.]]]), tensor([[0.5379, 1.4621]]))
    """
    size = feat.abs()
    spatial = (size.mean(1).flatten(1) / tau).softmax(1).reshape(len(feat), *feat.shape[2:])
    channel = (size.mean((2, 3)) / tau).softmax(1)
    return spatial[0].numel() * spatial, feat.shape[1] * channel


def box_weights(
    boxes: Sequence[Tensor], image_sizes: Sizes, size: tuple[int, int], like: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return how much each position of a map counts as foreground and as background.

    A box covers the cells from floor(lower corner) to ceil(upper corner), both counted, of the map it is scaled to. A
    foreground cell weighs 1 / (cells of its box, those past the map's edge included), of several boxes that of the
    smallest; background cells share a weight of 1.

    Args:
        boxes: (B, 4) for each image, pixels x1, y1, x2, y2; B may be 0.
        image_sizes: (height, width) of what the map shows, for each image: with padding, the padded size.
        size: (H, W) of the map.
        like: a tensor whose device and precision the weights get.

    Returns:
        Foreground and background, (N, H, W) each.

    Raises:
        ValueError: boxes and sizes differ in number; boxes not (B, 4); a size that is not two numbers above 0.

    >>> box_weights([torch.tensor([[0.0, 2.0, 2.0, 4.0]])], [(4, 8)], (3, 4))[0]  # rows 1 to 3, columns 0 and 1
    tensor([[[0.0000, 0.0000, 0.0000, 0.0000],
             [0.1667, 0.1667, 0.0000, 0.0000],
             [0.1667, 0.1667, 0.0000, 0.0000]]])
    """
    if len(boxes) != len(image_sizes):
        raise ValueError(
            f"boxes and image_sizes must have one entry per image each, got {len(boxes)} and {len(image_sizes)}"
        )
    foreground = (torch.zeros(()) if like is None else like).new_zeros(len(boxes), *size)
    rows, columns = (torch.arange(count, device=foreground.device) for count in size)
    for image, (each, shown) in enumerate(zip(boxes, image_sizes)):
        if each.dim() != 2 or each.shape[1] != 4:
            raise ValueError(f"boxes[{image}] must have shape (B, 4), x1, y1, x2, y2, got {tuple(each.shape)}")
        if len(shown) != 2 or min(shown) <= 0:
            raise ValueError(f"image_sizes[{image}] must be (height, width), both above 0, got {tuple(shown)}")
        if not len(each):
            continue
        corners = upcast(each.detach()).to(foreground.device)
        (height, width), extent = shown, corners.new_tensor([size[1], size[0]] * 2)
        # multiplied before dividing, so that rounding moves no corner off a grid point
        grid = corners * extent / corners.new_tensor([width, height] * 2)
        x1, y1, x2, y2 = torch.cat([grid[:, :2].floor(), grid[:, 2:].ceil()], 1)[:, :, None].unbind(1)
        cells = ((x2 - x1 + 1) * (y2 - y1 + 1)).clamp(min=1).to(foreground.dtype)
        inside = ((rows >= y1) & (rows <= y2))[:, :, None] & ((columns >= x1) & (columns <= x2))[:, None]
        foreground[image] = (inside / cells[:, :, None]).amax(0)
    background = (foreground == 0).to(foreground.dtype)
    return foreground, background / background.sum((1, 2), keepdim=True).clamp(min=1)


class GlobalContext(nn.Module):
    r"""What a map as a whole adds to each of its positions.

    .. math:: W_2\, \mathrm{ReLU}\bigl(\mathrm{LN}(W_1 \textstyle\sum_i \mathrm{softmax}_i(w F_i)\, F_i)\bigr)

    W_1 halves the channels, W_2 restores them and starts at 0: a fresh block adds nothing.

    Args:
        channels: C.

    Shape:
        feat: (N, C, H, W). Output: (N, C, 1, 1).

    References:
        GcBlock of Cao et al., arXiv 1904.11492, as FGD uses it; there the map itself is added to the output.

    >>> GlobalContext(4)(torch.ones(1, 4, 2, 3)).shape
    torch.Size([1, 4, 1, 1])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        check_whole("channels", channels, 1, most=WIDEST)
        hidden = max(channels // 2, 1)
        self.attend = nn.Conv2d(channels, 1, 1)
        last = nn.Conv2d(hidden, channels, 1)
        self.transform = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.LayerNorm([hidden, 1, 1]), nn.ReLU(inplace=True), last
        )
        nn.init.kaiming_normal_(self.attend.weight, mode="fan_in", nonlinearity="relu")
        for zeroed in (self.attend.bias, last.weight, last.bias):
            nn.init.zeros_(cast(Tensor, zeroed))

    def forward(self, feat: Tensor) -> Tensor:
        """Return what is added to every position."""
        feat = feat.to(self.attend.weight.dtype)
        attention = self.attend(feat).flatten(1).softmax(1)
        pooled = torch.einsum("nci,ni->nc", feat.flatten(2), attention)
        return cast(Tensor, self.transform(pooled[:, :, None, None]))


def fgd_terms(
    student: Maps,
    teacher: Maps,
    boxes: Sequence[Tensor],
    image_sizes: Sizes,
    contexts: Sequence[tuple[Context, Context]] | None = None,
    *,
    tau: float = 0.5,
) -> dict[str, Tensor]:
    r"""Return the four parts of FGD, unweighted, each per image and added over the levels.

    With S, A of `feature_attention`, weights w of `box_weights` and contexts g:

    - foreground: :math:`\tfrac{1}{N} \sum_{n c i} w^{fg}_{n i} S^t_{n i} A^t_{n c} (s - t)_{n c i}^2`, background likewise;
    - attention: :math:`\tfrac{1}{N} (\lVert S^s - S^t \rVert_1 + \lVert A^s - A^t \rVert_1)`;
    - relation: :math:`\tfrac{1}{N} \lVert s + g_s(s) - t - g_t(t) \rVert_2^2`.

    Args:
        student: a map or a list of maps, one per level.
        teacher: the teacher's maps, likewise; they receive no gradient.
        boxes: objects of each image, see `box_weights`.
        image_sizes: what the maps show of each image, see `box_weights`.
        contexts: g_s and g_t of each level, from a map to (N, C, 1, 1); None: 0, as fresh blocks give.
        tau: temperature of the attentions.

    Shape:
        Maps: (N, C, H, W), of one shape on both sides. Output: scalars.

    Raises:
        ValueError: numbers of maps, shapes, numbers of images or of contexts differ; boxes or sizes of another form; `tau`
            not above 0.

    References:
        Yang et al., arXiv 2111.11837, sections 3.1 and 3.2. Differs from the paper, as its program does, in dividing by N; from
        the program in boxes past the left or upper edge, which it cuts wrongly, and in the rounding of corners on the grid.

    Example:
        >>> student, teacher = torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 1, 2)
        >>> terms = fgd_terms(student, teacher, [torch.tensor([[4.0, 0.0, 8.0, 8.0]])], [(8, 8)])
        >>> {name: value.item() for name, value in terms.items()}
        {'foreground': 0.25, 'background': 1.0, 'attention': 0.0, 'relation': 2.0}
    """
    check_positive("tau", tau)
    pairs = as_maps(student, teacher)
    if contexts is not None and len(contexts) != len(pairs):
        raise ValueError(f"contexts must have one pair for each of the {len(pairs)} maps, got {len(contexts)}")
    sums: dict[str, list[Tensor]] = {name: [] for name in ("foreground", "background", "attention", "relation")}
    for level, (student_feat, teacher_feat) in enumerate(pairs):
        check_same_shape(student_feat, teacher_feat, f"features of level {level}")
        count = len(student_feat)
        if len(boxes) != count:
            raise ValueError(f"boxes must have one entry for each of the {count} images, got {len(boxes)}")
        with torch.autocast(student_feat.device.type, enabled=False):
            dtype = common_dtype(student_feat, teacher_feat)
            student_feat, teacher_feat = student_feat.to(dtype), teacher_feat.detach().to(dtype)
            (spatial_s, channel_s), (spatial_t, channel_t) = (
                feature_attention(x, tau) for x in (student_feat, teacher_feat)
            )
            difference = student_feat - teacher_feat
            error = spatial_t * torch.einsum("nchw,nc->nhw", difference.square(), channel_t)
            weights = box_weights(boxes, image_sizes, (student_feat.shape[2], student_feat.shape[3]), like=student_feat)
            for name, weight in zip(("foreground", "background"), weights):
                sums[name].append((weight * error).sum() / count)
            gaps = [F.l1_loss(a, b, reduction="sum") for a, b in ((spatial_s, spatial_t), (channel_s, channel_t))]
            sums["attention"].append((gaps[0] + gaps[1]) / count)
            if contexts is not None:
                difference = difference + contexts[level][0](student_feat) - contexts[level][1](teacher_feat)
            sums["relation"].append(difference.square().sum() / count)
    return {name: torch.stack(values).sum() for name, values in sums.items()}


def fgd_loss(
    student: Maps,
    teacher: Maps,
    boxes: Sequence[Tensor],
    image_sizes: Sizes,
    contexts: Sequence[tuple[Context, Context]] | None = None,
    *,
    tau: float = 0.5,
    foreground_weight: float = 1e-3,
    background_weight: float = 5e-4,
    attention_weight: float = 1e-3,
    relation_weight: float = 5e-6,
) -> Tensor:
    """Return the weighted sum of the four parts of FGD.

    Arguments, shapes and errors are those of `fgd_terms`. The weights are the authors' alpha, beta, gamma and lambda, by
    default those of their program; its RetinaNet config has `attention_weight=5e-4`.

    References:
        Yang et al., arXiv 2111.11837, section 3.3.

    Example:
        >>> student, teacher = torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 1, 2)
        >>> f"{fgd_loss(student, teacher, [torch.tensor([[4.0, 0.0, 8.0, 8.0]])], [(8, 8)]).item():.5f}"
        '0.00076'
    """
    terms = fgd_terms(student, teacher, boxes, image_sizes, contexts, tau=tau)
    focal = foreground_weight * terms["foreground"] + background_weight * terms["background"]
    return focal + attention_weight * terms["attention"] + relation_weight * terms["relation"]


class FGDLoss(nn.Module):
    """`fgd_loss` with two `GlobalContext` blocks per level, times `loss_weight`.

    The blocks, the teacher's too, are trained with the student and then dropped. An adapter brings the boxes.

    Args:
        channels: of the maps, a number or one per level; where the student's differ, add a `ConvAlign`.
        num_levels: pyramid levels.
        tau: temperature of the attentions; 0.5 with the authors.
        foreground_weight, background_weight, attention_weight, relation_weight: see `fgd_loss`.
        loss_weight: factor on the result.

    Attributes:
        student_contexts, teacher_contexts: ModuleLists, a `GlobalContext` per level.

    Shape:
        student_feats, teacher_feats: num_levels maps (N, channels, H, W), or one map. Output: a scalar.

    Raises:
        ValueError: an argument out of range; maps that are not num_levels, or do not fit; see `fgd_terms`.

    Config::

        loss_fgd=dict(
            type='freqkd.DistillTerm', student_tap='neck', adapter=dict(type='freqkd.GroundTruthBoxes'),
            loss=dict(type='freqkd.FGDLoss', channels=256, num_levels=5))

    Example:
        >>> student, teacher = torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 1, 2)
        >>> loss = FGDLoss(channels=1, num_levels=1, loss_weight=1000.0)
        >>> f"{loss(student, teacher, boxes=[torch.tensor([[4.0, 0.0, 8.0, 8.0]])], image_sizes=[(8, 8)]).item():.2f}"
        '0.76'
    """

    def __init__(
        self,
        channels: int | Sequence[int],
        num_levels: int,
        tau: float = 0.5,
        foreground_weight: float = 1e-3,
        background_weight: float = 5e-4,
        attention_weight: float = 1e-3,
        relation_weight: float = 5e-6,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_positive("tau", tau)
        check_at_least("loss_weight", loss_weight, 0)
        self.channels = per_level("channels", channels, num_levels)
        self.student_contexts, self.teacher_contexts = (
            nn.ModuleList(GlobalContext(width) for width in self.channels) for _ in range(2)
        )
        self.tau = tau
        self.weights = dict(foreground_weight=foreground_weight, background_weight=background_weight)
        self.weights.update(attention_weight=attention_weight, relation_weight=relation_weight)
        for name, value in self.weights.items():
            check_at_least(name, value, 0)
        self.loss_weight = loss_weight

    def forward(
        self, student_feats: Maps, teacher_feats: Maps, *, boxes: Sequence[Tensor], image_sizes: Sizes
    ) -> Tensor:
        """Return the weighted loss."""
        check_level_maps(student_feats, teacher_feats, self.channels)
        contexts = [cast(tuple[Context, Context], pair) for pair in zip(self.student_contexts, self.teacher_contexts)]
        loss = fgd_loss(student_feats, teacher_feats, boxes, image_sizes, contexts, tau=self.tau, **self.weights)
        return self.loss_weight * loss
