"""FreeKD: distillation of wavelet subbands at the positions that the teacher's prompts point at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqkd.align import per_level
from freqkd.checks import (
    as_maps,
    check_at_least,
    check_choice,
    check_flag,
    check_map,
    check_positive,
    check_same_shape,
    check_whole,
    upcast,
)
from freqkd.losses.haar_distance import haar_distance, pointed_distance
from freqkd.losses.haar_weights import nest_weights
from freqkd.losses.squared_bands import squared_bands
from freqkd.prompts import BAND_CHOICES, OVERLAP_CHOICES, SCORE_CHOICES, FrequencyPrompt, count_bands
from freqkd.relation import ChannelGate, relation_weights
from freqkd.wavelets import DEEPEST, HAAR_NAMES, check_depth, wavedec2

NORMS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "l1": lambda x, knee: x.abs(),
    "l2": lambda x, knee: x.square(),
    "huber": lambda x, knee: F.huber_loss(x, torch.zeros_like(x), reduction="none", delta=knee),
    "log": lambda x, knee: x.abs().log1p(),
}
COMBINE: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda masks: masks.mean(1, keepdim=True),
    "max": lambda masks: masks.amax(1, keepdim=True),
    "rms": lambda masks: masks.square().mean(1, keepdim=True).sqrt(),
    "contrast": lambda masks: (2 * masks - 1).abs().mean(1, keepdim=True),
}
BAND_WEIGHTS = ("mean", "orientation-mean", "flat", "details")
RELATION_CHOICES = ("none", "attention", "gate")
CHOICES = dict(
    bands=BAND_CHOICES,
    overlap=OVERLAP_CHOICES,
    score=SCORE_CHOICES,
    relation=RELATION_CHOICES,
    norm=NORMS,
    combine=(*COMBINE, "none"),
)
_PAPER = dict(norm="l1", combine="mean", band_weights="mean", relation="attention")
PRESETS: dict[str, dict[str, Any]] = {
    "paper": dict(_PAPER, bands="subband", overlap="jaccard", normalize=True),
    "official": dict(
        _PAPER, band_weights="orientation-mean", relation="none", bands="level", overlap="dice", normalize=False
    ),
    "details": dict(
        norm="l2",
        combine="none",
        band_weights="details",
        relation="none",
        bands="subband",
        overlap="jaccard",
        normalize=True,
    ),
}


def freekd_loss(
    student: Tensor,
    teacher: Tensor,
    masks: Sequence[Tensor] | None = None,
    channel_weights: Tensor | None = None,
    *,
    norm: str = "l1",
    knee: float = 1.0,
    combine: str = "mean",
    band_weights: str | Sequence[float] = "mean",
    weight_map: Tensor | None = None,
    depth: int = 3,
    wavelet: str = "haar",
    fused: bool = True,
    compiled: bool = False,
) -> Tensor:
    r"""Return the weighted distance of the wavelet subbands of two feature maps.

    .. math:: \sum_b \lambda_b \, \mathrm{mean}\, \rho( \omega \odot M_b \odot (t_b - s_b) )

    over the bands b of `wavedec2`; the mean runs over batch, channels and positions. The transform is linear, so only
    t - s is transformed; masks are not negative, so they are combined before they multiply anything.

    Args:
        student: the student's map, already with the teacher's channels and size.
        teacher: the teacher's map; like masks and weights it receives no gradient.
        masks: one tensor per band, as `FrequencyPrompt.masks` returns them for the teacher's bands: 1 + 3 * depth of them,
            or 1 + depth that serve all orientations of a level. None is a mask of ones.
        channel_weights: omega, as `relation_weights` returns it; None is ones.
        norm: rho: "l1", "l2" (x squared, without 1/2), "huber" (with 1/2, linear above `knee`) or "log" (log(1 + abs(x))).
        knee: of "huber".
        combine: how T masks m_i become M: "mean", "max", "rms" (root of the mean of m_i^2), "contrast" (mean of
            abs(2 m_i - 1)) or "none" (masks are not used).
        band_weights: lambda: "mean" (1: every band counts alike, the paper), "orientation-mean" (1/3 for details, 0 for the
            low band: every level counts alike, the released program), "flat" (every coefficient counts alike), "details" (flat,
            without the low band), or 1 + 3 * depth or 1 + depth numbers, the low band's first, then from the finest on.
        weight_map: a weight for every position, in place of masks; taken to the bands by the means of its blocks.
        depth: levels of the transform.
        wavelet: see `wavedec2`.
        fused: take the fast path where there is one, which gives the same numbers to rounding: Haar with "l1" and a mean of
            masks, or with "l2" and "flat" or "details" without masks.
        compiled: let `torch.compile` fuse the former (channels last); needs a C++ compiler, or Triton on a GPU.

    With "flat" and "details" the sum is divided by the number of values of the map, and blocks at the border are means over
    the positions they have (`boundary="valid"`): `norm="l2"`, "flat" is the mean squared error at every size, a constant
    difference has no details, and low band and details add up to the mean squared error. The other weightings pad with
    zeros, as the released program does, which leaks a part of a constant into the details of small maps.

    Shape:
        student, teacher: (N, C, H, W); masks[b]: (N, T, h, w) of that band; channel_weights: (N or 1, C);
        weight_map: (N or 1, 1, H', W'), at least as large as the map. Output: a scalar.

    Raises:
        ValueError: shapes that do not fit, a number of masks or weights that fits neither form, an unknown word.

    References:
        FreeKD, arXiv 2311.12079. The notes on the paper leave open whether its L1 norm is a sum or a mean: we take the
        mean, so that bands count alike whatever their size. Equal to the released program for "orientation-mean" and masks
        per level. "flat" and "details" are ours.

    Example:
        >>> student = torch.zeros(1, 1, 2, 2)
        >>> teacher = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])  # bands 5, -2, -1, 0
        >>> freekd_loss(student, teacher, depth=1).item()
        8.0
        >>> freekd_loss(student, teacher, depth=1, band_weights="orientation-mean").item()
        1.0
        >>> freekd_loss(student, teacher, depth=1, norm="l2", band_weights="details").item()  # (4 + 1 + 0) / 4
        1.25
    """
    check_map("student", student)
    check_map("teacher", teacher)
    check_same_shape(student, teacher)
    _check_options(norm, knee, combine, band_weights, depth, wavelet)
    check_depth(depth, (student.shape[-2], student.shape[-1]), "depth")
    masks = None if combine == "none" else masks
    _check_weights(student, masks, channel_weights, weight_map, depth, wavelet)
    teacher = teacher.detach()
    if fused and wavelet in HAAR_NAMES and weight_map is None:
        if norm == "l1" and (masks is None or combine == "mean") and band_weights in ("mean", "orientation-mean"):
            with torch.no_grad():
                weights, scales = nest_weights(masks, student, depth, *_rule(band_weights))
            omegas = None if channel_weights is None else [channel_weights]
            return haar_distance([student], [teacher], weights, omegas, depth, compiled, scales)
        if norm == "l2" and masks is None and channel_weights is None and band_weights in ("flat", "details"):
            return squared_bands(student, teacher, depth, with_low=band_weights == "flat")
    boundary = "valid" if band_weights in ("flat", "details") and wavelet in HAAR_NAMES else "zero"
    low, details = wavedec2(upcast(teacher) - upcast(student), wavelet, depth, boundary)
    bands = [low, *(band for detail in details for band in detail.unbind(2))]
    factors = band_factors(band_weights, bands, student)
    places = position_weights(masks, weight_map, combine, student, depth)
    for index, (band, place) in enumerate(zip(bands, places)):
        _check_fit(index, band, place, len(masks or ()) == count_bands(depth, "level"))
    omega = 1.0 if channel_weights is None else channel_weights.detach()[:, :, None, None]
    terms = [
        factor * NORMS[norm](omega * place * band, knee).mean()
        for band, factor, place in zip(bands, factors, places)
        if factor
    ]
    return torch.stack(terms).sum() if terms else low.sum() * 0


def band_factors(band_weights: str | Sequence[float], bands: Sequence[Tensor], like: Tensor) -> list[float]:
    """Return what the mean of every band counts, see `freekd_loss`.

    >>> band_factors("orientation-mean", [torch.ones(1, 1, 1, 1)] * 4, torch.ones(1, 1, 2, 2))
    [0.0, 0.3333333333333333, 0.3333333333333333, 0.3333333333333333]
    >>> band_factors("details", [torch.ones(1, 1, 1, 1)] * 4, torch.ones(1, 1, 2, 2))
    [0.0, 0.25, 0.25, 0.25]
    """
    details = len(bands) - 1
    if band_weights == "mean":
        return [1.0] * len(bands)
    if band_weights == "orientation-mean":
        return [0.0, *[1 / 3] * details]
    if isinstance(band_weights, str):
        shares = [band[0, 0].numel() / like[0, 0].numel() for band in bands]
        return [shares[0] if band_weights == "flat" else 0.0, *shares[1:]]
    given = [float(factor) for factor in band_weights]
    return given if len(given) == len(bands) else [given[0], *(factor for factor in given[1:] for _ in range(3))]


def position_weights(
    masks: Sequence[Tensor] | None, weight_map: Tensor | None, combine: str, like: Tensor, depth: int
) -> list[Tensor | float]:
    """Return M of every band, (N or 1, 1, h, w): masks combined, or the block means of a weight map; 1 without either.

    >>> places = position_weights(None, torch.arange(4.0).view(1, 1, 2, 2), "mean", torch.ones(1, 1, 2, 2), 1)
    >>> [place.item() for place in places]
    [1.5, 1.5, 1.5, 1.5]
    """
    places: list[Tensor | float]
    if weight_map is not None:
        own = F.adaptive_avg_pool2d(upcast(weight_map.detach()), (like.shape[-2], like.shape[-1]))
        levels = [F.avg_pool2d(own, 2**j, ceil_mode=True, count_include_pad=False) for j in range(1, depth + 1)]
        places = [levels[-1], *levels]
    elif masks is None:
        return [1.0] * count_bands(depth, "subband")
    else:
        places = [COMBINE[combine](upcast(mask.detach())) for mask in masks]
    return places if len(places) > 1 + depth else [places[0], *(place for place in places[1:] for _ in range(3))]


def _check_fit(index: int, band: Tensor, place: Tensor | float, per_level: bool) -> None:
    if isinstance(place, Tensor) and (place.shape[0] not in (1, len(band)) or place.shape[2:] != band.shape[2:]):
        raise ValueError(
            f"masks[{(index + 2) // 3 if per_level else index}] must be (N, T, h, w) with N = {len(band)} and positions "
            f"{tuple(band.shape[2:])}, got {len(place)} and {tuple(place.shape[2:])}"
        )


def _rule(band_weights: object) -> tuple[bool, str]:
    """Return (include_low, orientations) of the fused loss."""
    return band_weights == "mean", "sum" if band_weights == "mean" else "mean"


def _check_options(
    norm: str, knee: float, combine: str, band_weights: str | Sequence[float], depth: int, wavelet: str
) -> None:
    check_choice("norm", norm, NORMS)
    check_positive("knee", knee)
    check_choice("combine", combine, (*COMBINE, "none"))
    check_whole("depth", depth, 1, most=DEEPEST)
    if isinstance(band_weights, str):
        check_choice("band_weights", band_weights, BAND_WEIGHTS)
        return
    counts = count_bands(depth, "subband"), count_bands(depth, "level")
    if not isinstance(band_weights, (list, tuple)) or len(band_weights) not in counts:
        raise ValueError(
            f"band_weights must be one of {', '.join(map(repr, BAND_WEIGHTS))}, or {counts[0]} or {counts[1]} numbers for "
            f"depth={depth}, got {band_weights!r}"
        )
    for index, factor in enumerate(band_weights):
        check_at_least(f"band_weights[{index}]", factor, 0)


def _check_weights(
    student: Tensor,
    masks: Sequence[Tensor] | None,
    channel_weights: Tensor | None,
    weight_map: Tensor | None,
    depth: int,
    wavelet: str,
) -> None:
    batch, (height, width) = student.shape[0], student.shape[-2:]
    if masks is not None:
        counts = count_bands(depth, "subband"), count_bands(depth, "level")
        if len(masks) not in counts:
            raise ValueError(f"masks must have {counts[0]} or {counts[1]} entries for depth={depth}, got {len(masks)}")
        if weight_map is not None:
            raise ValueError("weight_map stands in the place of masks, got both; leave one out, or say combine='none'")
    if channel_weights is not None and channel_weights.shape not in (student.shape[:2], (1, student.shape[1])):
        raise ValueError(
            f"channel_weights must be (N or 1, C) = {tuple(student.shape[:2])}, got {tuple(channel_weights.shape)}"
        )
    if weight_map is not None:
        check_map("weight_map", weight_map, 1)
        if weight_map.shape[0] not in (1, batch) or weight_map.shape[-2] < height or weight_map.shape[-1] < width:
            raise ValueError(
                f"weight_map must be (N or 1, 1, H, W) with N = {batch}, at least as large as the map of {height}x{width}, "
                f"got shape {tuple(weight_map.shape)}"
            )
        if wavelet not in HAAR_NAMES:
            raise ValueError(f"weight_map needs the Haar wavelet, whose bands are block by block, got {wavelet!r}")


class FreeKDLoss(nn.Module):
    r"""FreeKD over a feature pyramid: `freekd_loss` of every level, with masks from frozen prompts, added up.

    The prompts come from the prompt stage (`load_prompts`); fresh ones give masks near 0.5 everywhere, that is half the
    plain distance of the bands. Nothing in here is trained: all parameters are frozen.

    A preset sets defaults, each of which can be given:

    ============  ====================  ====================================  ============================
    argument      "paper"               "official" (the released program)     "details" (no first stage)
    ============  ====================  ====================================  ============================
    norm          "l1"                  "l1"                                  "l2"
    combine       "mean"                "mean"                                "none": no masks, no prompts
    band_weights  "mean"                "orientation-mean"                    "details"
    relation      "attention"           "none"                                "none"
    bands         "subband": 10 sets    "level": 4 token sets                 not used
    overlap       "jaccard"             "dice"                                not used
    normalize     True                  False                                 not used
    ============  ====================  ====================================  ============================

    `overlap` and `normalize` matter in the prompt stage only.

    Args:
        channels: of the (aligned) maps: a number, or one per pyramid level.
        num_levels: pyramid levels.
        num_prompts: T; the paper uses 2, the released config 6.
        preset: "paper", "official" or "details".
        norm: see `freekd_loss`.
        knee: see `freekd_loss`.
        combine: see `freekd_loss`; with "none" there are no prompts to train.
        band_weights: see `freekd_loss`.
        relation: channel weights: "none", "attention" (parameter-free) or "gate" (MLPs trained in the prompt stage).
        depth: levels of the transform.
        wavelet: see `wavedec2`.
        bands: "subband" or "level", see `FrequencyPrompt`.
        overlap: "jaccard" or "dice", see `FrequencyPrompt`.
        normalize: see `FrequencyPrompt`.
        score: "signed" or "magnitude", see `FrequencyPrompt`.
        fused: see `freekd_loss`.
        compiled: see `freekd_loss`.
        loss_weight: factor on the result.

    Attributes:
        prompts: ModuleList, a `FrequencyPrompt` per level; empty for combine="none".
        gates: ModuleList, a `ChannelGate` per level for relation="gate", else empty.
        needs_prompts: whether there is anything that a prompt stage trains.

    Shape:
        student_feats, teacher_feats: num_levels maps (N, C, H, W), or one map. Output: a scalar.

    Raises:
        ValueError: an argument out of range; maps that are not num_levels, or do not fit.

    References:
        FreeKD, arXiv 2311.12079. "official" equals the released program to rounding. Its published detection results
        add plain MSE on the same features (`MSELoss`), which alone teaches the low band there. "details" is ours.

    Config::

        dict(type='freqkd.FreeKDLoss', channels=256, num_levels=5, preset='official', num_prompts=6, loss_weight=1.0)

    Example:
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch...>
        >>> loss = FreeKDLoss(channels=4, num_levels=1)
        >>> student, teacher = torch.randn(1, 4, 16, 16), torch.randn(1, 4, 16, 16)
        >>> round(loss(student, teacher).item() / freekd_loss(student, teacher).item(), 1)
        0.5
    """

    def __init__(
        self,
        channels: int | Sequence[int],
        num_levels: int,
        num_prompts: int = 2,
        preset: str = "paper",
        *,
        norm: str | None = None,
        knee: float = 1.0,
        combine: str | None = None,
        band_weights: str | Sequence[float] | None = None,
        relation: str | None = None,
        depth: int = 3,
        wavelet: str = "haar",
        bands: str | None = None,
        overlap: str | None = None,
        normalize: bool | None = None,
        score: str = "signed",
        fused: bool = True,
        compiled: bool = False,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        widths = per_level("channels", channels, num_levels)
        check_choice("preset", preset, PRESETS)
        check_at_least("loss_weight", loss_weight, 0)
        check_flag("fused", fused)
        check_flag("compiled", compiled)
        given: dict[str, Any] = dict(norm=norm, combine=combine, band_weights=band_weights, relation=relation)
        given.update(bands=bands, overlap=overlap, normalize=normalize, score=score)
        chosen = {**PRESETS[preset], **{name: value for name, value in given.items() if value is not None}}
        for name, choices in CHOICES.items():
            check_choice(name, chosen[name], choices)
        _check_options(chosen["norm"], knee, chosen["combine"], chosen["band_weights"], depth, wavelet)
        if chosen["relation"] == "gate" and chosen["combine"] == "none":
            raise ValueError(
                "relation='gate' needs a prompt stage to train its gates, and combine='none' has none, got both; take "
                "relation='attention' or 'none'"
            )
        self.channels, self.num_levels, self.loss_weight = widths, num_levels, loss_weight
        self.relation, self.fused = str(chosen["relation"]), fused
        self.options = dict(norm=chosen["norm"], knee=knee, combine=chosen["combine"], compiled=compiled)
        self.options.update(band_weights=chosen["band_weights"], depth=depth, wavelet=wavelet)
        options = {name: chosen[name] for name in ("bands", "overlap", "normalize", "score")}
        options.update(depth=depth, wavelet=wavelet)
        prompted = widths if chosen["combine"] != "none" else ()
        self.prompts = nn.ModuleList(FrequencyPrompt(width, num_prompts, **options) for width in prompted)
        self.gates = nn.ModuleList(ChannelGate(width) for width in widths if self.relation == "gate")
        self.requires_grad_(False)

    @property
    def needs_prompts(self) -> bool:
        """Whether there is anything that a prompt stage trains."""
        return len(self.prompts) > 0

    def forward(self, student_feats: Tensor | Sequence[Tensor], teacher_feats: Tensor | Sequence[Tensor]) -> Tensor:
        """Return the loss; no gradient reaches the teacher."""
        pairs = as_maps(student_feats, teacher_feats)
        if len(pairs) != self.num_levels:
            raise ValueError(f"student_feats must have num_levels={self.num_levels} maps, got {len(pairs)}")
        for index, (student, teacher) in enumerate(pairs):
            check_map("teacher", teacher, self.channels[index])
            check_same_shape(student, teacher, f"features of level {index}")
        with torch.no_grad():
            omegas = [self._channel_weights(pairs, index) for index in range(len(pairs))]
        prompts = [cast(FrequencyPrompt, prompt) for prompt in self.prompts]
        if self._shares_a_canvas():
            return self.loss_weight * self._fused_pyramid(pairs, prompts, omegas)
        losses = []
        for index, (student, teacher) in enumerate(pairs):
            masks = None
            if prompts:
                with torch.no_grad():
                    masks = prompts[index].masks(prompts[index].decompose(teacher.detach()))
            losses.append(freekd_loss(student, teacher, masks, omegas[index], fused=self.fused, **self.options))
        return self.loss_weight * torch.stack(losses).sum()

    def _shares_a_canvas(self) -> bool:
        """Whether the fused form takes all levels at once, masks included."""
        options = self.options
        return bool(
            (self.fused and len(self.prompts) and options["wavelet"] in HAAR_NAMES and options["norm"] == "l1")
            and (options["combine"] == "mean" and options["band_weights"] in ("mean", "orientation-mean"))
            and cast(FrequencyPrompt, self.prompts[0]).score == "signed"
            and not torch.compiler.is_compiling()
        )

    def _fused_pyramid(
        self,
        pairs: list[tuple[Tensor, Tensor]],
        prompts: Sequence[FrequencyPrompt],
        omegas: Sequence[Tensor | None],
    ) -> Tensor:
        for (_, teacher), prompt in zip(pairs, prompts):
            prompt.check_size(teacher)
        low, orientations = _rule(self.options["band_weights"])
        options = dict(level=self.options["depth"], include_low=low, orientations=orientations)
        tokens = [prompt.tokens for prompt in prompts]
        return pointed_distance(pairs, tokens, omegas, compiled=self.options["compiled"], **options)

    def _channel_weights(self, pairs: list[tuple[Tensor, Tensor]], index: int) -> Tensor | None:
        if self.relation == "none":
            return None
        student_deeper, teacher_deeper = pairs[index + 1] if index + 1 < len(pairs) else (None, None)
        gate = self.gates[index] if self.relation == "gate" else None
        return relation_weights(*pairs[index], student_deeper, teacher_deeper, gate=gate)

    def load_prompts(self, state: Mapping[str, Tensor]) -> None:
        """Copy the tokens, and gates, of a prompt stage: keys `prompts.<i>.tokens` and `gates.<i>.*`, all of them.

        The stamp of a prompt file, `teacher_hash`, is passed over: a loss knows no teacher.

        Raises:
            ValueError: `state` and this loss differ; names the levels, bands, prompts or channels that do. A number in it
                is not finite.
        """
        own = self.state_dict()
        state = {name: value for name, value in state.items() if name != "teacher_hash"}
        wrong = _differences(state, own)
        if wrong:
            raise ValueError(f"the prompts do not fit this loss: {'; '.join(wrong)}")
        check_finite(state)
        for name, value in own.items():
            value.copy_(state[name])


def check_finite(state: Mapping[str, Tensor]) -> None:
    """Raise ValueError where a prompt or gate holds a number that is not finite.

    >>> check_finite({"prompts.0.tokens": torch.tensor([1.0, float("nan")])})
    Traceback (most recent call last):
    ...
    ValueError: prompts.0.tokens must hold finite numbers, got 1 of 2 that are not: the prompt stage diverged; train them anew
    """
    for name, value in state.items():
        bad = int((~torch.isfinite(value)).sum())
        if bad:
            raise ValueError(
                f"{name} must hold finite numbers, got {bad} of {value.numel()} that are not: the prompt stage diverged; "
                "train them anew"
            )


def _differences(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Return, in words, how a prompt file differs from the loss that is to take it."""
    tokens = [name for name in own if name.endswith(".tokens")]
    levels = sum(name.endswith(".tokens") for name in state)
    if levels != len(tokens):
        return [f"they are for {levels} pyramid levels where num_levels={len(tokens)}"]
    gates, own_gates = (any(name.startswith("gates.") for name in names) for names in (state, own))
    if gates != own_gates:
        return [f"they have {'' if gates else 'no '}gates, which relation='gate' {'alone has' if gates else 'needs'}"]
    if set(state) != set(own):
        lacking, extra = sorted(set(own) - set(state)), sorted(set(state) - set(own))
        return [f"keys {lacking} are missing and keys {extra} are unknown"]
    words = ("bands (see bands= and depth=)", "prompts per band (num_prompts)", "channels")
    wrong = []
    for name, value in own.items():
        theirs, ours = tuple(state[name].shape), tuple(value.shape)
        if name in tokens and len(theirs) == len(ours):
            wrong += [f"{name} has {a} {word}, not {b}" for a, b, word in zip(theirs, ours, words) if a != b]
        elif theirs != ours:
            wrong.append(f"{name} has shape {theirs}, not {ours}")
    return wrong
