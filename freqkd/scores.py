"""What tokens say at every position of a map's Haar subbands, without making the subbands."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from freqkd.checks import check_map, upcast


def subband_scores(feat: Tensor, tokens: Tensor, level: int) -> tuple[Tensor, ...]:
    r"""Return token . pixel for all tokens and Haar subbands of a map.

    Both the transform and the product with a token are linear, so they swap: a map is projected on the tokens first, which
    leaves a few maps to transform in place of its C channels,

    .. math:: P_b \cdot \mathrm{DWT}_b(F) = \mathrm{DWT}_b(P_b \cdot F)

    Of the map itself only the low bands are made, a third of it in all.

    Args:
        feat: F.
        tokens: one set per subband (1 + 3 * level) or per level (1 + level), as in `FrequencyPrompt`; the set of a level
            scores the sum of its three orientations.
        level: levels of the transform.

    Shape:
        feat: (N, C, H, W); tokens: (B, T, C). Output: B tensors (N, T, h, w), low band first, then finest to coarsest.

    Raises:
        ValueError: `feat` is no map of C channels, or B fits neither form.

    Example:
        >>> feat = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])  # bands 5, -2, -1, 0
        >>> [score.item() for score in subband_scores(feat, torch.ones(4, 1, 1), level=1)]
        [5.0, -2.0, -1.0, 0.0]
        >>> [score.item() for score in subband_scores(feat, torch.ones(2, 1, 1), level=1)]
        [5.0, -3.0]
    """
    check_map("feat", feat, tokens.shape[-1])
    if tokens.shape[0] not in (1 + 3 * level, 1 + level):
        raise ValueError(
            f"tokens must hold {1 + 3 * level} sets (one per subband) or {1 + level} (one per level) for level={level}, "
            f"got {tokens.shape[0]}"
        )
    sets = 1 if tokens.shape[0] == 1 + level else 3
    *finer, coarsest = project_levels(feat, tokens, level)
    details: list[Tensor] = []
    for projected in map(_even, finer):
        grouped = projected.reshape(projected.shape[0], sets, -1, *projected.shape[2:])
        a, b, c, d = (grouped[..., row::2, column::2].unbind(1) for row in (0, 1) for column in (0, 1))
        if sets == 1:
            details.append(3 * a[0] - b[0] - c[0] - d[0])
        else:
            details += [a[0] + b[0] - c[0] - d[0], a[1] - b[1] + c[1] - d[1], a[2] - b[2] - c[2] + d[2]]
    return (coarsest, *details)


def project_levels(feat: Tensor, tokens: Tensor, level: int) -> list[Tensor]:
    """Return the products that `subband_scores` transforms.

    One (N, K, h, w) for every level of the transform, finest first, with the K = T or 3 T tokens of that level on the map
    that the level splits (times a butterfly's 1/2), and last the products of the low band itself.
    """
    low = upcast(feat)
    tokens = tokens.to(low.dtype) * _halves(tokens.shape[0], low)
    sets = 1 if tokens.shape[0] == 1 + level else 3
    projections = []
    for index in range(level):
        projections.append(_project(low, tokens[1 + sets * index : 1 + sets * (index + 1)].flatten(0, 1)))
        low = _low(low)
    return [*projections, _project(low, tokens[0])]


def _halves(sets: int, like: Tensor) -> Tensor:
    """Return the factor of every token set: a butterfly's 1/2 for details, 1 for the low band, whose map has it already."""
    factors = torch.full((sets, 1, 1), 0.5, dtype=like.dtype, device=like.device)
    factors[0] = 1.0
    return factors


def _even(x: Tensor) -> Tensor:
    """Give odd sizes a zero row or column at the end."""
    height, width = x.shape[-2:]
    return F.pad(x, (0, width % 2, 0, height % 2)) if height % 2 or width % 2 else x


def _low(x: Tensor) -> Tensor:
    if x.is_contiguous(memory_format=torch.channels_last):
        # Partial windows at the end sum what is there, as zeros beside them would.
        return F.avg_pool2d(x, 2, ceil_mode=True, divisor_override=2)
    x = _even(x)
    rows = x[..., 0::2, :] + x[..., 1::2, :]
    return (rows[..., 0::2] + rows[..., 1::2]) * 0.5


def _project(feat: Tensor, tokens: Tensor) -> Tensor:
    """Return (N, K, h, w) products of (N, C, h, w) with (K, C)."""
    with torch.autocast(feat.device.type, enabled=False):
        if not feat.is_contiguous(memory_format=torch.channels_last):
            scores = torch.matmul(tokens, feat.flatten(2))
            return scores.reshape(feat.shape[0], -1, *feat.shape[2:])
        # As it lies in memory, pixels are rows; which side comes first is a matter of speed alone.
        pixels = feat.permute(0, 2, 3, 1).flatten(0, 2)
        scores = torch.mm(pixels, tokens.t()).t() if tokens.shape[0] <= 8 else torch.mm(tokens, pixels.t())
        return scores.reshape(-1, feat.shape[0], *feat.shape[2:]).transpose(0, 1)
