"""Frequency prompts: learnt tokens that mask the positions of a teacher's wavelet subbands."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from freqkd.align import per_level
from freqkd.losses.freekd.wavelets import DEEPEST, Subbands, check_depth, wavedec2, waverec2
from freqkd.utils.checks import WIDEST, check_choice, check_flag, check_map, check_whole, upcast

__all__ = ["FrequencyPrompt", "build_prompts", "dice_overlap", "jaccard_overlap", "mask_deviation"]

TOKEN_CHOICES = ("subband", "scale")
OVERLAP_CHOICES = ("jaccard", "dice")
SCORE_CHOICES = ("signed", "magnitude")
PROMPT_PRESETS = {
    "paper": dict(tokens_per="subband", overlap="jaccard", normalize=True),
    "official": dict(tokens_per="scale", overlap="dice", normalize=False),
}


def count_bands(depth: int, tokens_per: str) -> int:
    """Return how many token sets a prompt has: 1 + 3 * depth for "subband", 1 + depth for "scale".

    >>> count_bands(3, "subband"), count_bands(3, "scale")
    (10, 4)
    """
    return 1 + (3 * depth if tokens_per == "subband" else depth)


def jaccard_overlap(masks: Tensor) -> Tensor:
    r"""Return the mean soft Jaccard index of all pairs of masks, each mask with itself included.

    .. math:: \frac{1}{T^2} \sum_{i,j} \frac{\sum m_i m_j}{\sum m_i^2 + \sum m_j^2 - \sum m_i m_j}

    Sums run over the positions; the result is the mean over the batch. Equal masks give 1, disjoint ones 1/T.

    Shape:
        masks: (N, T, h, w), not negative; output: a scalar.

    Raises:
        ValueError: `masks` is not a map of floating point numbers.

    References:
        FreeKD, arXiv 2311.12079, the dissimilarity of its prompt stage.
        Differs from the released program, which uses Dice and leaves the diagonal out: see `dice_overlap`.

    Example:
        >>> jaccard_overlap(torch.tensor([[[[1.0, 0.0]], [[1.0, 1.0]]]])).item()
        0.75
    """
    inner, squares = _inner_products(masks)
    return (inner / _positive(squares - inner)).mean()


def dice_overlap(masks: Tensor) -> Tensor:
    r"""Return the mean Dice index of the pairs of different masks; one mask alone gives a differentiable zero.

    .. math:: \frac{1}{T(T-1)} \sum_{i \ne j} \frac{2 \sum m_i m_j}{\sum m_i^2 + \sum m_j^2}

    Sums run over the positions; the result is the mean over the batch.

    Shape:
        masks: (N, T, h, w), not negative; output: a scalar.

    Raises:
        ValueError: `masks` is not a map of floating point numbers.

    References:
        The released program of FreeKD, arXiv 2311.12079. Differs from it for T = 1, where it divides 0 by 0;
        differs from the paper, which uses Jaccard over all pairs.

    Example:
        >>> dice_overlap(torch.tensor([[[[1.0, 0.0]], [[1.0, 2.0]]]])).item()  # 2 * 1 / (1 + 5)
        0.3333333432674408
    """
    inner, squares = _inner_products(masks)
    count = masks.shape[1]
    apart = 1 - torch.eye(count, dtype=inner.dtype, device=inner.device)
    pairs = 2 * inner / _positive(squares) * apart
    return pairs.sum((-2, -1)).mean() / max(count * (count - 1), 1)


def _inner_products(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return sum(m_i m_j) and sum(m_i^2) + sum(m_j^2), each (N, T, T)."""
    check_map("masks", masks)
    flat = upcast(masks).flatten(2)
    with torch.autocast(flat.device.type, enabled=False):
        inner = flat @ flat.transpose(1, 2)
    squares = inner.diagonal(dim1=1, dim2=2)
    return inner, squares[:, :, None] + squares[:, None, :]


def _positive(x: Tensor) -> Tensor:
    return x.clamp_min(torch.finfo(x.dtype).tiny)  # masks that underflow to zero must not give 0 / 0


def mask_deviation(masks: Sequence[Tensor]) -> Tensor:
    """Return how far masks are from flat: the standard deviation over positions, mean over bands, images and prompts.

    Shape:
        masks: a sequence of (N, T, h, w); output: a scalar, in [0, 0.5] for masks in [0, 1], without gradient.

    Raises:
        ValueError: `masks` is empty, or an entry is not a map.

    Example:
        >>> mask_deviation([torch.full((1, 2, 4, 4), 0.5)]).item(), mask_deviation([torch.eye(2)[None, None]]).item()
        (0.0, 0.5)
    """
    if not len(masks):
        raise ValueError("masks must hold at least one band, got none")
    deviations = []
    for index, mask in enumerate(masks):
        check_map(f"masks[{index}]", mask)
        deviations.append(upcast(mask.detach()).flatten(2).std(-1, correction=0).mean())
    return torch.stack(deviations).mean()


def check_prompt_options(
    num_prompts: int,
    tokens_per: str,
    depth: int,
    score: str,
    overlap: str = "jaccard",
    normalize: bool = True,
) -> None:
    """Raise ValueError where an option of `FrequencyPrompt` is out of range."""
    check_whole("num_prompts", num_prompts, 1, most=1024)
    check_whole("depth", depth, 1, most=DEEPEST)
    check_choice("score", score, SCORE_CHOICES)
    check_flag("normalize", normalize)
    check_choice("tokens_per", tokens_per, TOKEN_CHOICES)
    check_choice("overlap", overlap, OVERLAP_CHOICES)


class FrequencyPrompt(nn.Module):
    r"""Learnt tokens that mask the subbands of a feature map.

    For token t of band b, a mask is :math:`M_{b,t} = \sigma(P_{b,t} \cdot x_b)` at every position of the band. Called
    on a feature map, it rebuilds the map from its masked bands, :math:`\frac{2}{T} \sum_t M_{b,t} x_b`, and
    returns how much the masks of a band overlap. That is the prompt stage: the rebuilt map replaces the
    teacher's own, and tokens are trained by the teacher's task loss + overlap. Masks share the band: they are added
    before they multiply it, so T masked copies never exist.

    Tokens start small, in pairs of opposite sign, whose two masks add to exactly 1; an odd one starts near zero. So the
    rebuilt map starts equal to the given one, and yet no two tokens are equal (equal ones would never part).

    Args:
        channels: C of the maps.
        num_prompts: T, masks per band.
        depth: levels of the transform.
        tokens_per: "subband": one token set for each of the 1 + 3 * depth bands, as in the paper. "scale": one for the
            low band and one per level of the transform, whose mask is made from the sum of the three orientations and serves
            all of them, as in the released program.
        overlap: "jaccard" (mean over bands, the paper) or "dice" (sum over bands, the released program).
        normalize: scale the sum of the masks by 2 / T. False keeps the released program's plain sum, whose gain starts
            at T / 2.
        wavelet: see `wavedec2`.
        score: what a token is multiplied with: "signed", the band, as published, or "magnitude", its absolute values. The
            sign of a detail is only the polarity of an edge: signed masks split every object into stripes.

    Attributes:
        tokens: Parameter (B, T, C); band 0 is the low band, then finest to coarsest, per level LH, HL, HH.

    Shape:
        Input: (N, C, H, W), any non-empty size. Output: the rebuilt map, of the input's shape and dtype, and a
        scalar.

    Raises:
        ValueError: an argument out of range, or a map with other channels.

    References:
        FreeKD, arXiv 2311.12079, section on frequency prompts; T = 2 there.
        Differs from the paper in `normalize`, and from the released program where features have odd sizes: that one
        gives back one row or column too many.

    Example:
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch...>
        >>> prompt = FrequencyPrompt(channels=4, num_prompts=2, depth=2)
        >>> prompt.tokens.shape
        torch.Size([7, 2, 4])
        >>> feat = torch.randn(1, 4, 9, 12)
        >>> rebuilt, overlap = prompt(feat)
        >>> torch.allclose(rebuilt, feat, atol=1e-5), round(overlap.item(), 1)
        (True, 1.0)
    """

    def __init__(
        self,
        channels: int,
        num_prompts: int = 2,
        depth: int = 3,
        tokens_per: str = "subband",
        overlap: str = "jaccard",
        normalize: bool = True,
        wavelet: str = "haar",
        score: str = "signed",
    ) -> None:
        super().__init__()
        check_whole("channels", channels, 1, most=WIDEST)
        check_prompt_options(num_prompts, tokens_per, depth, score, overlap, normalize)
        self.channels = channels
        self.num_prompts = num_prompts
        self.depth = depth
        self.score = score
        self.tokens_per = tokens_per
        self.overlap = overlap
        self.normalize = normalize
        self.wavelet = wavelet
        self.tokens = nn.Parameter(torch.empty(count_bands(depth, tokens_per), num_prompts, channels))
        self.reset_parameters()
        self._warned = False

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new tokens: pairs of opposite sign, an odd one a thousand times smaller."""
        nn.init.normal_(self.tokens, std=0.1 * self.channels**-0.5)
        pairs = self.num_prompts // 2
        self.tokens[:, pairs : 2 * pairs] = -self.tokens[:, :pairs]
        self.tokens[:, 2 * pairs :] *= 0.001

    def decompose(self, feat: Tensor) -> Subbands:
        """Return the subbands of a map; warn once where it is too small for the depth."""
        check_map("feat", feat, self.channels)
        self.check_size(feat)
        return wavedec2(feat, self.wavelet, self.depth)

    def masks(self, bands: Subbands) -> tuple[Tensor, ...]:
        """Return one (N, T, h, w) tensor of masks per band, in the order of `tokens`, for bands of `decompose`.

        Raises:
            ValueError: `bands` has another number of levels or channels.
        """
        if len(bands.details) != self.depth:
            raise ValueError(f"bands must have {self.depth} levels of details, got {len(bands.details)}")
        if bands.low.shape[1] != self.channels:
            raise ValueError(f"bands must have {self.channels} channels, got {bands.low.shape[1]}")
        if self.score == "magnitude":
            bands = Subbands(bands.low.abs(), tuple(detail.abs() for detail in bands.details))
        sources = [bands.low]
        for detail in bands.details:
            sources += detail.unbind(2) if self.tokens_per == "subband" else [detail.sum(2)]
        masks = []
        for tokens, band in zip(self.tokens, map(upcast, sources)):
            with torch.autocast(band.device.type, enabled=False):
                # matmul takes one orientation of (N, C, 3, h, w) as it lies in memory; einsum would copy it first.
                scores = torch.matmul(tokens.to(band.dtype), band.flatten(2))
            masks.append(torch.unflatten(scores, -1, band.shape[2:]).sigmoid())
        return tuple(masks)

    def rebuild(self, bands: Subbands, masks: Sequence[Tensor], size: tuple[int, int] | None = None) -> Tensor:
        """Return the map of `size` joined from bands that are weighted by the (scaled) sum of their masks."""
        scale = 2 / self.num_prompts if self.normalize else 1.0
        gains = [mask.sum(1, keepdim=True) * scale for mask in masks]
        if self.tokens_per == "subband":
            details = [torch.stack(gains[1 + 3 * j : 4 + 3 * j], dim=2) for j in range(self.depth)]
        else:
            details = [gain.unsqueeze(2) for gain in gains[1:]]
        weighted = Subbands(bands.low * gains[0], tuple(d * g for d, g in zip(bands.details, details)))
        return waverec2(weighted, self.wavelet, size)

    def forward(self, feat: Tensor) -> tuple[Tensor, Tensor]:
        """Return the map rebuilt from its masked bands, and the overlap of the masks."""
        bands = self.decompose(feat)
        masks = self.masks(bands)
        rebuilt = self.rebuild(bands, masks, (feat.shape[-2], feat.shape[-1]))
        return rebuilt.to(feat.dtype), self.measure_overlap(masks)

    def measure_overlap(self, masks: Sequence[Tensor]) -> Tensor:
        """Return the overlap of the masks of all bands: what the prompt stage makes small."""
        if self.overlap == "jaccard":
            return torch.stack([jaccard_overlap(mask) for mask in masks]).mean()
        return torch.stack([dice_overlap(mask) for mask in masks]).sum()

    def check_size(self, feat: Tensor, name: str = "a map") -> None:
        """Warn, once, where the coarsest bands of `feat` would hold mostly padding; `name` says which map it is.

        Raises:
            ValueError: they would hold next to nothing else, see `check_depth`.
        """
        check_depth(self.depth, (feat.shape[-2], feat.shape[-1]), "depth")
        smallest = min(feat.shape[-2], feat.shape[-1])
        if self._warned or smallest > 2 ** (self.depth - 1):
            return
        self._warned = True
        fitting = max((smallest - 1).bit_length(), 1)
        hint = f"; depth={fitting} would fit{'' if smallest > 1 else ' better'}" if fitting < self.depth else ""
        warnings.warn(
            f"{name} of {feat.shape[-2]}x{feat.shape[-1]} positions is too small for depth={self.depth}: its coarsest "
            f"bands are mostly padding{hint}",
            stacklevel=3,
        )

    def extra_repr(self) -> str:
        """Return the settings, for `print`."""
        return (
            f"channels={self.channels}, num_prompts={self.num_prompts}, depth={self.depth}, tokens_per={self.tokens_per!r}, "
            f"overlap={self.overlap!r}, normalize={self.normalize}, wavelet={self.wavelet!r}, score={self.score!r}"
        )


def build_prompts(
    channels: int | Sequence[int],
    num_levels: int,
    preset: str = "paper",
    *,
    num_prompts: int = 2,
    tokens_per: str | None = None,
    overlap: str | None = None,
    normalize: bool | None = None,
    depth: int = 3,
    wavelet: str = "haar",
    score: str = "signed",
) -> nn.ModuleList:
    """Make a `FrequencyPrompt` for every pyramid level.

    Args:
        channels: C of the maps: a number, or one per level.
        num_levels: pyramid levels.
        preset: "paper" (a token set per subband, Jaccard, normalised) or "official" (per scale, Dice, plain sum), the
            defaults of the options below.
        num_prompts: T; the paper uses 2, the released config 6.
        tokens_per: see `FrequencyPrompt`.
        overlap: see `FrequencyPrompt`.
        normalize: see `FrequencyPrompt`.
        depth: see `FrequencyPrompt`.
        wavelet: see `FrequencyPrompt`.
        score: see `FrequencyPrompt`.

    Raises:
        ValueError: an argument out of range.

    >>> [prompt.tokens.shape[0] for prompt in build_prompts(8, 2, preset="official")]
    [4, 4]
    """
    check_choice("preset", preset, PROMPT_PRESETS)
    widths = per_level("channels", channels, num_levels)
    given = dict(tokens_per=tokens_per, overlap=overlap, normalize=normalize)
    chosen = {**PROMPT_PRESETS[preset], **{name: value for name, value in given.items() if value is not None}}
    options: dict[str, Any] = dict(chosen, num_prompts=num_prompts, depth=depth, wavelet=wavelet, score=score)
    return nn.ModuleList(FrequencyPrompt(width, **options) for width in widths)
