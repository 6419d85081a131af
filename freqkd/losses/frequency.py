"""FreeKD: distillation of subbands, at the positions the teacher's prompts point at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from freqkd.align import per_level
from freqkd.checks import (
    as_maps,
    check_at_least,
    check_choice,
    check_flag,
    check_map,
    check_same_shape,
    check_whole,
    upcast,
)
from freqkd.losses.haar_distance import haar_distance, pointed_distance
from freqkd.losses.haar_weights import mean_mask, nest_weights
from freqkd.prompts import BAND_CHOICES, OVERLAP_CHOICES, FrequencyPrompt, count_bands
from freqkd.relation import ChannelGate, relation_weights
from freqkd.wavelets import DEEPEST, HAAR_NAMES, check_depth, wavedec2

RELATION_CHOICES = ("none", "attention", "gate")
ORIENTATION_CHOICES = ("sum", "mean")
CHOICES = dict(bands=BAND_CHOICES, overlap=OVERLAP_CHOICES, relation=RELATION_CHOICES, orientations=ORIENTATION_CHOICES)
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"bands": "subband", "overlap": "jaccard", "include_low": True, "relation": "attention"},
    "official": {"bands": "level", "overlap": "dice", "include_low": False, "relation": "none"},
}
PRESETS["paper"].update(level=3, normalize=True, orientations="sum")
PRESETS["official"].update(level=3, normalize=False, orientations="mean")


def freekd_loss(
    student: Tensor,
    teacher: Tensor,
    masks: Sequence[Tensor] | None = None,
    channel_weights: Tensor | None = None,
    *,
    level: int = 3,
    wavelet: str = "haar",
    include_low: bool = True,
    orientations: str = "sum",
    compiled: bool = False,
) -> Tensor:
    r"""Return the masked L1 distance of the subbands of two feature maps.

    .. math:: \sum_b \mathrm{mean}\, | \omega \odot M_b \odot (t_b - s_b) |,\quad M_b = \frac{1}{T} \sum_i M_{b,i}

    over the bands b of `wavedec2`; the mean runs over batch, channels and positions. Masks are not negative, so
    they are averaged before they multiply anything, and the transform is linear, so only t - s is transformed. With
    Haar, loss and gradient come from one walk over the maps, see `haar_distance`.

    Args:
        student: the student's map, already with the teacher's channels and size.
        teacher: the teacher's map; like the masks and weights it receives no gradient.
        masks: one tensor per band, as `FrequencyPrompt.masks` or `mean_masks` returns them for the teacher's bands:
            1 + 3 * level of them, or 1 + level that serve all orientations of a level. None is a mask of ones.
        channel_weights: omega, as `relation_weights` returns it; None is ones.
        level: levels of the transform.
        wavelet: see `wavedec2`.
        include_low: whether the low band counts.
        orientations: "sum" (the paper: every band counts alike) or "mean" (the released program: every level does).
        compiled: let `torch.compile` fuse the walk (Haar, channels last); needs a C++ compiler, or Triton on a GPU.

    Shape:
        student, teacher: (N, C, H, W); masks[b]: (N, T, h, w) of that band; channel_weights: (N or 1, C).
        Output: a scalar.

    Raises:
        ValueError: shapes that do not fit, a number of masks that fits neither form, an unknown word.

    References:
        FreeKD, arXiv 2311.12079. The notes on the paper leave open whether its L1 norm is a sum or a mean: we take the
        mean, so that bands count alike whatever their size. Differs from the released program in the low band and the
        sum over orientations; equal to it for `orientations="mean"`, `include_low=False` and masks per level.

    Example:
        >>> student = torch.zeros(1, 1, 2, 2)
        >>> teacher = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])  # bands 5, -2, -1, 0
        >>> freekd_loss(student, teacher, level=1).item()
        8.0
        >>> freekd_loss(student, teacher, level=1, include_low=False, orientations="mean").item()
        1.0
    """
    check_map("student", student)
    check_map("teacher", teacher)
    check_same_shape(student, teacher)
    check_whole("level", level, 1, most=DEEPEST)
    check_depth(level, (student.shape[-2], student.shape[-1]))
    check_choice("orientations", orientations, ORIENTATION_CHOICES)
    per_level = masks is not None and len(masks) == count_bands(level, "level")
    if masks is not None and not per_level and len(masks) != count_bands(level, "subband"):
        raise ValueError(
            f"masks must have {count_bands(level, 'subband')} or {count_bands(level, 'level')} entries "
            f"for level={level}, got {len(masks)}"
        )
    if channel_weights is not None and channel_weights.shape not in (student.shape[:2], (1, student.shape[1])):
        raise ValueError(
            f"channel_weights must be (N or 1, C) = {tuple(student.shape[:2])}, got {tuple(channel_weights.shape)}"
        )
    if wavelet not in HAAR_NAMES:
        return _plain_distance(student, teacher, masks, channel_weights, level, wavelet, include_low, orientations)
    with torch.no_grad():
        weights, scales = nest_weights(masks, student, level, include_low, orientations)
    omegas = None if channel_weights is None else [channel_weights]
    return haar_distance([student], [teacher.detach()], weights, omegas, level, compiled, scales)


def _plain_distance(
    student: Tensor,
    teacher: Tensor,
    masks: Sequence[Tensor] | None,
    channel_weights: Tensor | None,
    level: int,
    wavelet: str,
    include_low: bool,
    orientations: str,
) -> Tensor:
    """Return `freekd_loss` as its formula reads, for any wavelet."""
    low, details = wavedec2(upcast(student) - upcast(teacher.detach()), wavelet, level)
    omega = 1.0 if channel_weights is None else channel_weights.detach()[:, :, None, None]
    bands = [low] + [band for detail in details for band in detail.unbind(2)]
    total = low.new_zeros(())
    for index, band in enumerate(bands):
        if index == 0 and not include_low:
            continue
        share = 1 / 3 if index and orientations == "mean" else 1.0
        mask: Tensor | float = 1.0
        if masks is not None:
            which = index if len(masks) == len(bands) else (index + 2) // 3
            mask = mean_mask(masks[which], f"masks[{which}]", low.shape[0], (band.shape[-2], band.shape[-1]))
        total = total + share * (omega * mask * band).abs().mean()
    return total


class FreeKDLoss(nn.Module):
    r"""FreeKD over a feature pyramid: `freekd_loss` of every level, with masks from frozen prompts, added up.

    The prompts come from the prompt stage (`load_prompts`); fresh ones give masks near 0.5 everywhere, that is half the
    plain distance of the bands. Nothing in here is trained: all parameters are frozen.

    A preset sets defaults, each of which can be given:

    ============  =========================================  =================================================
    argument      "paper"                                    "official" (the released program)
    ============  =========================================  =================================================
    level         3                                          3
    bands         "subband": 10 token sets                   "level": 4 token sets
    overlap       "jaccard"                                  "dice"
    include_low   True                                       False
    relation      "attention"                                "none"
    normalize     True                                       False
    orientations  "sum"                                      "mean"
    ============  =========================================  =================================================

    `overlap` and `normalize` matter in the prompt stage only.

    Args:
        channels: of the (aligned) maps: a number, or one per pyramid level.
        num_levels: pyramid levels.
        num_prompts: T; the paper uses 2, the released config 6.
        preset: "paper" or "official".
        level: levels of the transform.
        wavelet: see `wavedec2`.
        bands: "subband" or "level", see `FrequencyPrompt`.
        overlap: "jaccard" or "dice", see `FrequencyPrompt`.
        include_low: whether the low band counts.
        relation: channel weights: "none", "attention" (parameter-free) or "gate" (MLPs trained in the prompt stage).
        normalize: see `FrequencyPrompt`.
        orientations: "sum" or "mean", see `freekd_loss`.
        compiled: let `torch.compile` fuse the walk, see `freekd_loss`.
        loss_weight: factor on the result.

    Attributes:
        prompts: ModuleList, a `FrequencyPrompt` per level.
        gates: ModuleList, a `ChannelGate` per level for relation="gate", else empty.

    Shape:
        student_feats, teacher_feats: num_levels maps (N, C, H, W), or one map. Output: a scalar.

    Raises:
        ValueError: an argument out of range; maps that are not num_levels, or do not fit.

    References:
        FreeKD, arXiv 2311.12079. "official" equals the released program to rounding. Its published detection results
        add plain MSE on the same features (`MSELoss`), which alone teaches the low band there.

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
        level: int | None = None,
        wavelet: str = "haar",
        bands: str | None = None,
        overlap: str | None = None,
        include_low: bool | None = None,
        relation: str | None = None,
        normalize: bool | None = None,
        orientations: str | None = None,
        compiled: bool = False,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        widths = per_level("channels", channels, num_levels)
        check_choice("preset", preset, PRESETS)
        check_at_least("loss_weight", loss_weight, 0)
        check_flag("compiled", compiled)
        given = {"level": level, "bands": bands, "overlap": overlap, "include_low": include_low, "relation": relation}
        given.update(normalize=normalize, orientations=orientations)
        chosen = {**PRESETS[preset], **{name: value for name, value in given.items() if value is not None}}
        for name, choices in CHOICES.items():
            check_choice(name, chosen[name], choices)
        check_flag("include_low", chosen["include_low"])
        self.num_levels = num_levels
        chosen["wavelet"] = self.wavelet = wavelet
        self.compiled, self.relation, self.loss_weight = compiled, str(chosen["relation"]), loss_weight
        self._options = {name: chosen[name] for name in ("level", "include_low", "orientations")}
        options = {name: chosen[name] for name in ("level", "wavelet", "bands", "overlap", "normalize")}
        self.prompts = nn.ModuleList(FrequencyPrompt(width, num_prompts, **options) for width in widths)
        self.gates = nn.ModuleList(ChannelGate(width) for width in widths if self.relation == "gate")
        self.requires_grad_(False)

    def forward(self, student_feats: Tensor | Sequence[Tensor], teacher_feats: Tensor | Sequence[Tensor]) -> Tensor:
        """Return the loss; no gradient reaches the teacher."""
        pairs = as_maps(student_feats, teacher_feats)
        if len(pairs) != self.num_levels:
            raise ValueError(f"student_feats must have num_levels={self.num_levels} maps, got {len(pairs)}")
        prompts = [cast(FrequencyPrompt, prompt) for prompt in self.prompts]
        for index, (pair, prompt) in enumerate(zip(pairs, prompts)):
            check_map("teacher", pair[1], prompt.channels)
            check_same_shape(*pair, f"features of level {index}")
        with torch.no_grad():
            omegas = [self._channel_weights(pairs, index) for index in range(len(pairs))]
        if self.wavelet in HAAR_NAMES and not torch.compiler.is_compiling():
            for (_, teacher), prompt in zip(pairs, prompts):
                prompt.check_size(teacher)
            tokens = [prompt.tokens for prompt in prompts]
            return self.loss_weight * pointed_distance(pairs, tokens, omegas, compiled=self.compiled, **self._options)
        options = {**self._options, "wavelet": self.wavelet}
        maps = zip(pairs, prompts, omegas)
        losses = [freekd_loss(*pair, prompt.mean_masks(pair[1]), omega, **options) for pair, prompt, omega in maps]
        return self.loss_weight * torch.stack(losses).sum()

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
    words = ("bands (see bands= and level=)", "prompts per band (num_prompts)", "channels")
    wrong = []
    for name, value in own.items():
        theirs, ours = tuple(state[name].shape), tuple(value.shape)
        if name in tokens and len(theirs) == len(ours):
            wrong += [f"{name} has {a} {word}, not {b}" for a, b, word in zip(theirs, ours, words) if a != b]
        elif theirs != ours:
            wrong.append(f"{name} has shape {theirs}, not {ours}")
    return wrong
