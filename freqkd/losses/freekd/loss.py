"""FreeKD: distillation of wavelet subbands, weighted by masks of frequency prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqkd.align import Maps, per_level
from freqkd.losses.freekd.fused import fused_freekd_loss
from freqkd.losses.freekd.local_relation import WINDOW, local_relation_weights
from freqkd.losses.freekd.prompts import FrequencyPrompt, build_prompts, check_prompt_options, count_bands
from freqkd.losses.freekd.relation import GATES, relation_weights
from freqkd.losses.freekd.wavelets import DEEPEST, HAAR_NAMES, check_depth, wavedec2
from freqkd.losses.freekd.whitening import white_gains
from freqkd.losses.standardization import STANDARDIZE, standardize_pair
from freqkd.utils.checks import (
    WIDEST,
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

__all__ = ["FreeKDLoss", "freekd_loss"]

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
BAND_WEIGHTS = ("mean", "orientation-mean", "flat", "low", "details", "whitened")
VALID_BORDERS = ("flat", "low", "details", "whitened")  # under which a border block is the mean of what it has
RELATION_CHOICES = ("none", "attention", "local", *GATES)
PRESETS: dict[str, dict[str, Any]] = {
    "paper": dict(norm="l1", combine="mean", band_weights="mean", relation="attention", tokens_per="subband"),
    "official": dict(norm="l1", combine="mean", band_weights="orientation-mean", relation="none", tokens_per="scale"),
    "details": dict(norm="l2", combine="none", band_weights="details", relation="none", tokens_per="subband"),
    "whitened": dict(norm="l2", combine="none", band_weights="whitened", relation="none", tokens_per="subband"),
}


def freekd_loss(
    student: Tensor,
    teacher: Tensor,
    masks: FrequencyPrompt | Sequence[Tensor] | None = None,
    channel_weights: Tensor | None = None,
    *,
    norm: str = "l1",
    knee: float = 1.0,
    combine: str = "mean",
    band_weights: str | Sequence[float] = "mean",
    weight_map: Tensor | None = None,
    standardize: str = "none",
    depth: int = 3,
    wavelet: str = "haar",
    fused: bool = True,
) -> Tensor:
    r"""Return the weighted distance of the wavelet subbands of two feature maps.

    .. math:: \sum_b \lambda_b \, \mathrm{mean}\, \rho( \omega \odot M_b \odot (t_b - s_b) )

    over the bands b of `wavedec2`; the mean runs over batch, channels and positions. The transform is linear, so only
    t - s is transformed; masks are not negative, so they are combined before they multiply anything.

    Args:
        student: the student's map, already with the teacher's channels and size.
        teacher: the teacher's map; like masks and weights it receives no gradient.
        masks: one tensor per band, as `FrequencyPrompt.masks` returns them for the teacher's bands: 1 + 3 * depth of them,
            or 1 + depth that serve all orientations of a scale; or a prompt, which makes them. None is a mask of ones.
        channel_weights: omega, as `relation_weights` or `local_relation_weights` returns it; None is ones. One weight for
            every position is taken to the bands by the means of its blocks.
        norm: rho: "l1", "l2" (x squared, without 1/2), "huber" (with 1/2, linear above `knee`) or "log" (log(1 + abs(x))).
        knee: where "huber" becomes linear.
        combine: how T masks m_i become M: "mean", "max", "rms" (root of the mean of m_i^2), "contrast" (mean of
            abs(2 m_i - 1)) or "none" (masks are not used).
        band_weights: lambda: "mean" (1: every band counts alike, the paper), "orientation-mean" (1/3 for details, 0 for the
            low band: every scale counts alike, the released program), "flat" (every coefficient counts alike), "details" (flat,
            without the low band), "low" (flat, the low band alone), "whitened" (details, times `white_gains`), or
            1 + 3 * depth or 1 + depth numbers, the low band's first, then from the finest on.
        weight_map: a weight for every position, in place of masks; taken to the bands by the means of its blocks.
        standardize: the maps that are compared: "none", as they are; "level", the teacher's channels centred and divided by
            one deviation; "channel", by the deviation of each; "both", those of both networks by their own, as in PKD.
            Masks are those of the teacher's map as it is.
        depth: levels of the transform.
        wavelet: see `wavedec2`.
        fused: use a fast form where there is one, equal to rounding: Haar with "l1" and the mean of masks, or with "l2" and
            "flat", "details" or "whitened" without masks. False computes the formula as it stands below.

    With "flat", "low", "details" and "whitened" the sum is divided by the number of values of the map, and blocks at the border
    are means over the positions they have (`boundary="valid"`): `norm="l2"`, "flat" is the mean squared error at every size,
    a constant difference has no details, and "low" and "details" add up to the mean squared error. The other weightings pad
    with zeros, as the released program does, which leaks a part of a constant into the details of small maps.

    Shape:
        student, teacher: (N, C, H, W); masks[b]: (N, T, h, w) of that band; channel_weights: (N or 1, C), or
        (N or 1, C, H, W) with Haar; weight_map: (N or 1, 1, H', W'), at least as large as the map. Output: a scalar.

    Raises:
        ValueError: shapes that do not fit, a number of masks or weights that fits neither form, an unknown choice.

    References:
        FreeKD, arXiv 2311.12079. The notes on the paper leave open whether its L1 norm is a sum or a mean: here it is the
        mean, so that bands count alike whatever their size. Equal to the released program for "orientation-mean" and masks
        per scale. "flat", "low", "details" and "whitened" are additions of this package.

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
    masks, teacher = None if combine == "none" else masks, teacher.detach()
    options: dict[str, Any] = dict(norm=norm, knee=knee, combine=combine, band_weights=band_weights)
    options.update(depth=depth, wavelet=wavelet)
    _check_options(**options, standardize=standardize)
    _check_inputs(student, teacher, masks, depth, wavelet, channel_weights, weight_map)
    if standardize != "none":
        masks = masks.masks(wavedec2(teacher, wavelet, depth)) if isinstance(masks, FrequencyPrompt) else masks
        student, teacher = standardize_pair(student, teacher, standardize)
    if fused:
        fast = fused_freekd_loss([student], [teacher], [masks], [channel_weights], weight_map=weight_map, **options)
        if fast is not None:
            return fast
    boundary = "valid" if band_weights in VALID_BORDERS and wavelet in HAAR_NAMES else "zero"
    low, details = wavedec2(upcast(teacher) - upcast(student), wavelet, depth, boundary)
    bands = [low, *(band for detail in details for band in detail.unbind(2))]
    factors = band_factors(band_weights, bands, student)
    gains: Sequence[Tensor | float] = [1.0] * len(bands)
    if band_weights == "whitened":
        own = [band for one in wavedec2(upcast(teacher), wavelet, depth, boundary).details for band in one.unbind(2)]
        squares, counts = torch.stack([band.square().mean() for band in own]), [band.numel() for band in own]
        gains = [0.0, *white_gains(squares, squares.new_tensor(counts)).unbind()]
    if isinstance(masks, FrequencyPrompt):
        masks = masks.masks(wavedec2(teacher, wavelet, depth))
    places = position_weights(masks, weight_map, combine, student, depth)
    omegas: Sequence[Tensor | float] = [1.0] * len(bands)
    if channel_weights is not None and channel_weights.dim() == 4:
        omegas = position_weights(None, channel_weights, combine, student, depth)
    elif channel_weights is not None:
        omegas = [channel_weights.detach()[:, :, None, None]] * len(bands)
    terms = [
        factor * gain * NORMS[norm](omega * place * band, knee).mean()
        for band, factor, gain, place, omega in zip(bands, factors, gains, places, omegas)
        if factor
    ]
    return torch.stack(terms).sum() if terms else low.sum() * 0


def band_factors(band_weights: str | Sequence[float], bands: Sequence[Tensor], like: Tensor) -> list[float]:
    """Return lambda of every band, the factor of its mean, see `freekd_loss`.

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
        sizes = [band[0, 0].numel() / like[0, 0].numel() for band in bands]
        low = 0.0 if band_weights in ("details", "whitened") else sizes[0]
        return [low, *([0.0] * details if band_weights == "low" else sizes[1:])]
    given = [float(factor) for factor in band_weights]
    return given if len(given) == len(bands) else [given[0], *(factor for factor in given[1:] for _ in range(3))]


def position_weights(
    masks: Sequence[Tensor] | None, weight_map: Tensor | None, combine: str, like: Tensor, depth: int
) -> list[Tensor | float]:
    """Return M of every band, (N or 1, 1, h, w): masks combined, or the block means of a weight map; 1 without either.

    A weight map may have a weight for every channel, too.

    >>> places = position_weights(None, torch.arange(4.0).view(1, 1, 2, 2), "mean", torch.ones(1, 1, 2, 2), 1)
    >>> [place.item() for place in places]
    [1.5, 1.5, 1.5, 1.5]
    """
    places: list[Tensor | float]
    if weight_map is not None:
        resized = F.adaptive_avg_pool2d(upcast(weight_map.detach()), (like.shape[-2], like.shape[-1]))
        scales = [F.avg_pool2d(resized, 2**j, ceil_mode=True, count_include_pad=False) for j in range(1, depth + 1)]
        places = [scales[-1], *scales]
    elif masks is None:
        return [1.0] * count_bands(depth, "subband")
    else:
        places = [COMBINE[combine](upcast(mask.detach())) for mask in masks]
    return places if len(places) > 1 + depth else [places[0], *(place for place in places[1:] for _ in range(3))]


def _check_options(
    norm: str,
    knee: float,
    combine: str,
    band_weights: str | Sequence[float],
    depth: int,
    wavelet: str,
    standardize: str,
) -> None:
    check_choice("norm", norm, NORMS)
    check_choice("standardize", standardize, STANDARDIZE)
    check_positive("knee", knee)
    check_choice("combine", combine, (*COMBINE, "none"))
    check_whole("depth", depth, 1, most=DEEPEST)
    if isinstance(band_weights, str):
        check_choice("band_weights", band_weights, BAND_WEIGHTS)
        return
    counts = count_bands(depth, "subband"), count_bands(depth, "scale")
    if not isinstance(band_weights, (list, tuple)) or len(band_weights) not in counts:
        raise ValueError(
            f"band_weights must be one of {', '.join(map(repr, BAND_WEIGHTS))}, or {counts[0]} or {counts[1]} numbers for "
            f"depth={depth}, got {band_weights!r}"
        )
    for index, factor in enumerate(band_weights):
        check_at_least(f"band_weights[{index}]", factor, 0)


def _check_inputs(
    student: Tensor,
    teacher: Tensor,
    masks: FrequencyPrompt | Sequence[Tensor] | None,
    depth: int,
    wavelet: str,
    channel_weights: Tensor | None = None,
    weight_map: Tensor | None = None,
) -> None:
    check_map("student", student)
    check_map("teacher", teacher)
    check_same_shape(student, teacher)
    batch, (height, width) = student.shape[0], student.shape[-2:]
    check_depth(depth, (height, width), "depth")
    if masks is not None and weight_map is not None:
        raise ValueError("weight_map takes the place of masks, got both; leave one out, or set combine='none'")
    if isinstance(masks, FrequencyPrompt):
        if (masks.depth, masks.wavelet) != (depth, wavelet):
            raise ValueError(
                f"masks must be a prompt of depth={depth} and wavelet={wavelet!r}, got depth={masks.depth} and "
                f"wavelet={masks.wavelet!r}"
            )
        check_map("teacher", teacher, masks.channels)
        masks.check_size(teacher)
    elif masks is not None:
        _check_masks(masks, student, depth, wavelet)
    if channel_weights is not None:
        allowed = student.shape if channel_weights.dim() == 4 else student.shape[:2]
        if channel_weights.shape not in (allowed, (1, *allowed[1:])):
            letters = "N or 1, C, H, W" if channel_weights.dim() == 4 else "N or 1, C"
            raise ValueError(
                f"channel_weights must be ({letters}) = {tuple(allowed)}, got {tuple(channel_weights.shape)}"
            )
        if channel_weights.dim() == 4 and wavelet not in HAAR_NAMES:
            raise ValueError(
                f"channel_weights of every position need the Haar wavelet, whose bands are block by block, got {wavelet!r}"
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


def _check_masks(masks: Sequence[Tensor], student: Tensor, depth: int, wavelet: str) -> None:
    counts = count_bands(depth, "subband"), count_bands(depth, "scale")
    if len(masks) not in counts:
        raise ValueError(f"masks must have {counts[0]} or {counts[1]} entries for depth={depth}, got {len(masks)}")
    if wavelet not in HAAR_NAMES:
        return  # their bands are longer than blocks of 2^depth; a mask that does not fit fails to multiply
    for index, mask in enumerate(masks):
        scale = index if len(masks) == counts[1] else (index + 2) // 3
        size = tuple(-(-side // 2 ** (scale or depth)) for side in student.shape[-2:])
        if mask.dim() != 4 or mask.shape[0] not in (1, len(student)) or tuple(mask.shape[2:]) != size:
            raise ValueError(
                f"masks[{index}] must be (N, T, h, w) with N = {len(student)} and positions {size}, got shape "
                f"{tuple(mask.shape)}"
            )


class FreeKDLoss(nn.Module):
    r"""FreeKD over a feature pyramid: `freekd_loss` of every level, with masks from frozen prompts, added up.

    The prompts come from the prompt stage (`load_prompts`); fresh ones give masks near 0.5 everywhere, that is half the
    plain distance of the bands. Nothing in here is trained: all parameters are frozen.

    A preset sets defaults, each of which can be given:

    ============  ====================  ====================================  ============================
    argument      "paper"               "official" (the released program)     "details", "whitened"
    ============  ====================  ====================================  ============================
    norm          "l1"                  "l1"                                  "l2"
    combine       "mean"                "mean"                                "none": no masks, no stage 1
    band_weights  "mean"                "orientation-mean"                    the name of the preset
    relation      "attention"           "none"                                "none"
    tokens_per    "subband": 10 sets    "scale": 4 token sets                 not used
    ============  ====================  ====================================  ============================

    Args:
        channels: of the (aligned) maps: a number, or one per pyramid level; needed where there are prompts or gates.
        num_levels: pyramid levels; needed where there are prompts or gates.
        num_prompts: T; the paper uses 2, the released config 6.
        preset: "paper", "official", "details" or "whitened".
        norm: see `freekd_loss`.
        knee: see `freekd_loss`.
        combine: see `freekd_loss`; with "none" there are no prompts to train.
        band_weights: see `freekd_loss`.
        standardize: see `freekd_loss`.
        relation: channel weights: "none", "attention" (parameter-free), "local" (the same within windows, see
            `local_relation_weights`) "gate" (MLPs trained in the prompt stage) or
            "kan-gate" (KAN layers in their place).
        window: side of the windows of relation="local", in positions.
        depth: levels of the transform.
        wavelet: see `wavedec2`.
        tokens_per: "subband" or "scale", see `FrequencyPrompt`.
        score: "signed" or "magnitude", see `FrequencyPrompt`.
        fused: see `freekd_loss`.
        loss_weight: factor on the result.

    Attributes:
        prompts: ModuleList, a `FrequencyPrompt` per level; empty for combine="none".
        gates: ModuleList, a `ChannelGate` per level for relation="gate", a `KANGate` for "kan-gate", else empty.
        needs_prompts: whether there is anything that a prompt stage trains.

    Shape:
        student_feats, teacher_feats: num_levels maps (N, C, H, W), or one map. Output: a scalar.

    Raises:
        ValueError: an argument out of range or missing; maps that are not num_levels, or do not fit.

    References:
        FreeKD, arXiv 2311.12079. "official" equals the released program to rounding. Its published detection results
        add plain MSE on the same features (`MSELoss`), which alone teaches the low band there. "details" and "whitened"
        are additions of this package.

    Config::

        dict(type='freqkd.FreeKDLoss', preset='official')  # in a term with prompts='.../prompts.pth'
        dict(type='freqkd.FreeKDLoss', preset='details')

    Example:
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch...>
        >>> loss = FreeKDLoss(channels=4, num_levels=1)
        >>> student, teacher = torch.randn(1, 4, 16, 16), torch.randn(1, 4, 16, 16)
        >>> round(loss(student, teacher).item() / freekd_loss(student, teacher).item(), 1)
        0.5
    """

    level_loss: Callable[..., Tensor] = staticmethod(freekd_loss)  # of one level, with `level_options`

    def __init__(
        self,
        channels: int | Sequence[int] | None = None,
        num_levels: int | None = None,
        num_prompts: int = 2,
        preset: str = "paper",
        *,
        norm: str | None = None,
        knee: float = 1.0,
        combine: str | None = None,
        band_weights: str | Sequence[float] | None = None,
        relation: str | None = None,
        window: int = WINDOW,
        standardize: str = "none",
        depth: int = 3,
        wavelet: str = "haar",
        tokens_per: str | None = None,
        score: str = "signed",
        fused: bool = True,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_choice("preset", preset, PRESETS)
        check_at_least("loss_weight", loss_weight, 0)
        check_flag("fused", fused)
        given = dict(norm=norm, combine=combine, band_weights=band_weights, relation=relation, tokens_per=tokens_per)
        chosen = {**PRESETS[preset], **{name: value for name, value in given.items() if value is not None}}
        self.relation: str = chosen.pop("relation")
        tokens = dict(num_prompts=num_prompts, tokens_per=chosen.pop("tokens_per"), depth=depth, score=score)
        self.options, self.standardize = dict(chosen, knee=knee, depth=depth, wavelet=wavelet), standardize
        _check_options(**self.options, standardize=standardize)
        self.level_options = dict(self.options, standardize=standardize, fused=fused)
        check_choice("relation", self.relation, RELATION_CHOICES)
        check_whole("window", window, 1, most=WIDEST)
        self.window = window
        check_prompt_options(**tokens)
        masked = chosen["combine"] != "none"
        if self.relation in GATES and not masked:
            raise ValueError(
                f"relation={self.relation!r} needs a prompt stage to train its gates, and combine='none' has none, got both; "
                "take relation='attention', 'local' or 'none'"
            )
        if self.relation == "local" and wavelet not in HAAR_NAMES:
            raise ValueError(
                f"relation='local' needs the Haar wavelet, whose bands are block by block, got wavelet={wavelet!r}; take "
                "relation='attention' or 'none'"
            )
        self.channels: list[int] | None = None
        if channels is not None and num_levels is not None:
            self.channels = per_level("channels", channels, num_levels)
        elif masked or channels is not None:
            raise ValueError(
                "channels and num_levels must both be given (a loss with masks gets them from its prompt file), got "
                f"channels={channels}, num_levels={num_levels}"
            )
        elif num_levels is not None:
            check_whole("num_levels", num_levels, 1)
        self.num_levels, self.loss_weight, self.fused = num_levels, loss_weight, fused
        self.prompts, self.gates = nn.ModuleList(), nn.ModuleList()
        if masked and self.channels is not None:
            self.prompts = build_prompts(self.channels, len(self.channels), wavelet=wavelet, **tokens)
            if self.relation in GATES:
                self.gates = nn.ModuleList(GATES[self.relation](width) for width in self.channels)
        self.requires_grad_(False)

    @property
    def needs_prompts(self) -> bool:
        """Whether there is anything that a prompt stage trains."""
        return len(self.prompts) > 0

    def forward(self, student_feats: Maps, teacher_feats: Maps, weight_maps: Maps | None = None) -> Tensor:
        """Return the loss; no gradient reaches the teacher. `weight_maps` are the `weight_map` of every level, if any."""
        students, teachers = (list(maps) for maps in zip(*as_maps(student_feats, teacher_feats)))
        masks: list[Any] = list(self.prompts) or [None] * len(students)
        self._check_feats(students, teachers, masks)
        omegas: list[Tensor | None] = [None] * len(students)
        if self.relation != "none":
            deeper = zip([*students[1:], None], [*teachers[1:], None])
            gates: list[Any] = list(self.gates) or [None] * len(students)
            omegas = [
                local_relation_weights(student, teacher, *below, window=self.window)
                if self.relation == "local"
                else relation_weights(student, teacher, *below, gate=gate, fused=self.fused)
                for student, teacher, below, gate in zip(students, teachers, deeper, gates)
            ]
        places: list[Tensor | None] = [None] * len(students)
        if weight_maps is not None:
            places = [place for _, place in as_maps(students, weight_maps)]
        together = self.fused and weight_maps is None and self.standardize == "none" and self.level_loss is freekd_loss
        loss = fused_freekd_loss(students, teachers, masks, omegas, **self.options) if together else None
        if loss is None:
            levels = zip(students, teachers, masks, omegas, places)
            losses = [self.level_loss(*level, weight_map=place, **self.level_options) for *level, place in levels]
            loss = torch.stack(losses).sum()
        return self.loss_weight * loss

    def _check_feats(self, students: list[Tensor], teachers: list[Tensor], masks: list[Any]) -> None:
        if self.num_levels not in (None, len(students)):
            raise ValueError(f"student_feats must have num_levels={self.num_levels} maps, got {len(students)}")
        for level, (student, teacher) in enumerate(zip(students, teachers)):
            check_same_shape(student, teacher, f"features of level {level}")
            check_map("teacher", teacher, None if self.channels is None else self.channels[level])
            if isinstance(masks[level], FrequencyPrompt):
                masks[level].check_size(teacher, f"the map of level {level}")
            _check_inputs(student, teacher, masks[level], self.options["depth"], self.options["wavelet"])

    def load_prompts(self, state: Mapping[str, Tensor]) -> None:
        """Copy the tokens, and gates, of a prompt stage: keys `prompts.<i>.tokens` and `gates.<i>.*`, all of them.

        Raises:
            ValueError: keys or shapes differ from those of this loss, or a number is not finite.
        """
        own = self.state_dict()
        given, wanted = ({name: tuple(value.shape) for name, value in one.items()} for one in (state, own))
        wrong = [
            f"{name} is {given.get(name, 'missing')} and must be {wanted.get(name, 'left out')}"
            for name in sorted({*given, *wanted})
            if given.get(name) != wanted.get(name)
        ]
        if wrong:
            raise ValueError(
                f"prompts must fit the loss (tokens: bands, num_prompts, channels), but {'; '.join(wrong)}; take the "
                "options of the prompt stage"
            )
        check_finite(state)
        for name, value in own.items():
            value.copy_(state[name])


def check_finite(state: Mapping[str, Tensor]) -> None:
    """Raise ValueError where a prompt or gate holds a number that is not finite.

    >>> check_finite({"prompts.0.tokens": torch.tensor([1.0, float("nan")])})
    Traceback (most recent call last):
    ...
    ValueError: prompts.0.tokens must hold finite numbers, got 1 of 2 that are not: the prompt stage diverged; train it again
    """
    for name, value in state.items():
        bad = int((~torch.isfinite(value)).sum())
        if bad:
            raise ValueError(
                f"{name} must hold finite numbers, got {bad} of {value.numel()} that are not: the prompt stage diverged; "
                "train it again"
            )
