r"""Products of tokens with the pixels of Haar subbands, computed without the subbands.

Both the transform and the product with a token are linear, so they swap: a map is projected on the tokens first, which
leaves a few maps to transform in place of its C channels, P_b . DWT_b(F) = DWT_b(P_b . F). Of the map itself only the low bands
are made, and of them the sum of the three orientations: LH + HL + HH = 2 a - LL, where a is the first pixel of every block of
2 x 2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from freqkd.utils.checks import upcast

FEW = 8  # tokens


def order_tokens(tokens: Tensor, depth: int) -> Tensor:
    """Order tokens (..., B, T, C) for `project`: finest details first, the low band's last.

    Each is multiplied with the 1/2 of every butterfly between the map it is projected on and its band; one that scores the
    sum of the finest details with 2, see `project`.
    """
    sets = (tokens.shape[-3] - 1) // depth
    finest = 0.5 if sets == 3 else 2.0
    factors = [finest] * sets + [0.5**count for count in range(1, depth) for _ in range(sets)] + [0.5 ** (depth - 1)]
    tokens = upcast(tokens)
    return tokens.roll(-1, -3) * torch.tensor(factors, dtype=tokens.dtype).to(tokens.device)[:, None, None]


def project(feat: Tensor, tokens: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """Return the products of a map (N, C, h, w) with the tokens (B, T, C) that `order_tokens` returns, outside of autocast.

    Returns:
        Fresh tensors: the products with the tokens of the finest details, of the map (N, 3 T, h, w) or of half the sum of its
        finest details (N, T, h / 2, w / 2); and those of the low band of the first transform with all other tokens.
    """
    feat = upcast(feat)
    rows = tokens.flatten(0, 1).to(feat.dtype)
    sets = (tokens.shape[0] - 1) // depth
    finest, deeper = rows.tensor_split([sets * tokens.shape[1]])
    low = _low(feat)
    scored = feat if sets == 3 else torch.sub(feat[..., 0::2, 0::2], low, alpha=0.5)
    return _project(scored, finest), _project(low, deeper)


def split_scores(finest: Tensor, deeper: Tensor, prompts: int) -> list[Tensor]:
    """Transform the products that `project` returns, padded with zeros to whole blocks; uses them as scratch.

    Returns:
        The scores of the low band (N, T, h, w), then of the details, finest first, (N, 1 or 3, T, h, w).
    """
    count = finest.shape[1]
    details = [finest[:, None] if count == prompts else _details(torch.unflatten(finest, 1, (-1, prompts)))]
    while deeper.shape[1] > prompts:
        own, rest = torch.unflatten(deeper[:, :count], 1, (-1, prompts)), deeper[:, count:]
        rows = rest[..., 0::2, :] + rest[..., 1::2, :]
        deeper = rows[..., 0::2].add_(rows[..., 1::2])
        details.append(_details(own))
    return [deeper, *details]


def _padded(x: Tensor, block: int) -> Tensor:
    padding = (0, -x.shape[-1] % block, 0, -x.shape[-2] % block)
    return F.pad(x, padding) if any(padding) else x


def _low(x: Tensor) -> Tensor:
    if x.is_contiguous(memory_format=torch.channels_last):
        # Partial windows at the end sum what is there, as zeros beside them would.
        return F.avg_pool2d(x, 2, ceil_mode=True, divisor_override=2)
    x = _padded(x, 2)
    rows = x[..., 0::2, :] + x[..., 1::2, :]
    return (rows[..., 0::2] + rows[..., 1::2]) * 0.5


def _details(grouped: Tensor) -> Tensor:
    """Return details (N, 1 or 3, T, h / 2, w / 2) of (N, 1 or 3, T, h, w), which serves as scratch."""
    upper, lower = grouped[..., 0::2, :], grouped[..., 1::2, :]
    if grouped.shape[1] == 1:
        a, b, c, d = (half[..., column::2] for half in (upper, lower) for column in (0, 1))
        return (3 * a).sub_(b).sub_(c).sub_(d)
    upper[:, 1].add_(lower[:, 1])  # HL sums the rows
    upper[:, 0::2].sub_(lower[:, 0::2])
    left, right = upper[..., 0::2], upper[..., 1::2]
    left[:, 0].add_(right[:, 0])  # LH sums the columns
    left[:, 1:].sub_(right[:, 1:])
    return left


def _project(feat: Tensor, tokens: Tensor) -> Tensor:
    """Return (N, K, h, w) products of (N, C, h, w) with (K, C)."""
    batch, _, height, width = feat.shape
    if not feat.is_contiguous(memory_format=torch.channels_last):
        return torch.unflatten(torch.matmul(tokens, feat.flatten(2)), 2, (height, width))
    rows = feat.permute(0, 2, 3, 1).flatten(0, 1)  # as it lies in memory
    if tokens.shape[0] > FEW and feat.device.type == "cpu" and feat.dtype == torch.float32:
        # A matrix product with more than a few columns copies the pixels first; a convolution does not, in half the time.
        scores = F.conv2d(rows.transpose(1, 2)[:, :, None], tokens[:, :, None, None]).permute(0, 2, 3, 1)
    else:
        scores = torch.mm(rows.flatten(0, 1), tokens.t())
    return scores.reshape(batch, height, width, -1).permute(0, 3, 1, 2)
