"""Frequency-decoupled losses: FreeKD+, strict on the low band and relaxed on the details, and its inverse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from freqkd.align import Maps
from freqkd.losses.freekd.local_relation import WINDOW
from freqkd.losses.freekd.loss import FreeKDLoss, freekd_loss
from freqkd.losses.freekd.prompts import FrequencyPrompt
from freqkd.losses.freekd.wavelets import DEEPEST, wavedec2
from freqkd.losses.levels import sum_levels
from freqkd.utils.checks import check_at_least, check_choice, check_flag, check_whole, upcast

__all__ = ["FreeKDPlusLoss", "RelaxedLowLoss", "freekd_plus_loss", "refine_masks", "relaxed_low_loss"]


FLAT = 1e-3  # least variance that counts, as a share of the mean square: below it, a map is nearly constant


def strict_distance(student: Tensor, teacher: Tensor, bands: str, *context: Any, **options: Any) -> Tensor:
    """Return the squared distance of the "low" band or the "details", in units of the teacher's variance.

    The variance is the mean over the channels: with it, the distance does not depend on the network's magnitude, and can be
    added to `relaxed_distance`. The unit is at least a thousandth of the mean square, for
    maps that are nearly constant; the mean square itself for one number per channel, which has no variance; and 1 for a map of
    zeros. `context` are masks and channel weights.
    """
    target = upcast(teacher.detach())
    square = target.square().mean()
    unit = torch.maximum(target.var((0, 2, 3), correction=0).mean(), FLAT * square)
    unit = square if target[:, 0].numel() == 1 else unit
    distance = freekd_loss(student, teacher, *context, norm="l2", band_weights=bands, **options)
    return distance / torch.where(unit > 0, unit, 1.0)


def relaxed_distance(student: Tensor, teacher: Tensor, bands: str, *context: Any, **options: Any) -> Tensor:
    """Return the squared distance of the "low" band or the "details" of maps whose channels are standardised.

    A scale or shift of a channel of either network costs nothing, as in PKD: low band and details add up to
    2 * (1 - Pearson), times (n - 1) / n.
    """
    return freekd_loss(student, teacher, *context, norm="l2", band_weights=bands, standardize="both", **options)


@torch.no_grad()
def refine_masks(student_masks: Sequence[Tensor], teacher_masks: Sequence[Tensor]) -> list[Tensor]:
    r"""Return the teacher's masks, stronger where the masks of the same prompts on the student's bands differ from them.

    .. math:: m'_i \propto m^t_i \, (1 + |m^t_i - m^s_i|)

    with the mean over the positions of :math:`m^t`. So a position of interest counts more for as long as the student does not
    see it. The masks cannot collapse: they carry no gradient, keep the teacher's mean, lie within a factor of 2 of the
    teacher's, and are the teacher's own where both networks agree.

    Args:
        student_masks: one (N, T, h, w) for each band, values 0 to 1, of the student's bands.
        teacher_masks: of the teacher's, likewise.

    References:
        FreeKD+ (TPAMI 2026), whose abstract alone is public, says that the masks' regions are reconstructed with the student's
        knowledge. This rule is a choice of this package.

    Example:
        >>> teacher, student = torch.tensor([[[[1.0, 1.0, 0.0]]]]), torch.tensor([[[[1.0, 0.0, 1.0]]]])
        >>> refine_masks([student], [teacher])[0].flatten().tolist()  # 1 : 2 : 0, mean 2 / 3
        [0.6666666865348816, 1.3333333730697632, 0.0]
    """
    refined = []
    for student, teacher in zip(map(upcast, student_masks), map(upcast, teacher_masks)):
        stronger = teacher * (1 + (teacher - student).abs())
        mean, least = stronger.mean((-2, -1), keepdim=True), torch.finfo(stronger.dtype).tiny
        refined.append(stronger * (teacher.mean((-2, -1), keepdim=True) / mean.clamp_min(least)))
    return refined


def freekd_plus_loss(
    student: Tensor,
    teacher: Tensor,
    masks: FrequencyPrompt | Sequence[Tensor] | None = None,
    channel_weights: Tensor | None = None,
    *,
    refine: bool = True,
    low_weight: float = 1.0,
    details_weight: float = 1.0,
    depth: int = 3,
    wavelet: str = "haar",
    **options: Any,
) -> Tensor:
    r"""Return FreeKD+ of two maps: strict on the low band, relaxed on the details, under masks that the student refines.

    .. math:: \lambda_{low} \frac{1}{\sigma_t^2} \overline{ \| M (s - t)_{low} \|^2 }
              + \lambda_{details} \overline{ \| M (\hat s - \hat t)_{details} \|^2 }

    The low band must be equal: its squared error, in units of the teacher's variance :math:`\sigma_t^2`. The details must
    only rise and fall together: they are those of maps :math:`\hat x` whose channels have mean 0 and deviation 1, as in PKD.
    Both means run over all numbers of the map, as "low" and "details" of `freekd_loss` do.

    Args:
        student: the student's map, already with the teacher's channels and size.
        teacher: the teacher's map; it receives no gradient.
        masks: M: a trained prompt, masks as in `freekd_loss`, or None: ones.
        channel_weights: see `freekd_loss`.
        refine: refine the masks of a prompt by those it gives for the student's bands, see `refine_masks`; masks that are
            given as numbers, and weight maps, are taken as they are.
        low_weight: factor of the low band.
        details_weight: factor of the details.
        depth: see `freekd_loss`.
        wavelet: see `wavedec2`.
        options: `combine`, `weight_map` and `fused` of `freekd_loss`.

    Shape:
        student, teacher: (N, C, H, W). Output: a scalar.

    Raises:
        ValueError: see `freekd_loss`.

    References:
        FreeKD+ (TPAMI 2026): neither text nor program is public but for the abstract, which asks for relaxed alignment of high
        bands, stronger alignment of low ones, and masks that are refined with the student's knowledge. How each is done
        here is a choice of this package; no number of the paper is claimed.

    Example:
        >>> teacher = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> round(freekd_plus_loss(teacher + 1, teacher, depth=1).item(), 4)  # 1 / variance: a shift costs the low band
        0.8
        >>> round(freekd_plus_loss(3 * teacher, teacher, depth=1, low_weight=0.0).item(), 4)  # a scale no details
        0.0
    """
    transform: dict[str, Any] = dict(depth=depth, wavelet=wavelet)
    if isinstance(masks, FrequencyPrompt) and refine and options.get("combine") != "none":
        prompt = masks
        seen, wanted = (prompt.masks(wavedec2(x.detach(), wavelet, depth)) for x in (student, teacher))
        masks = refine_masks(seen, wanted)
    context, options = (masks, channel_weights), {**transform, **options}
    low = strict_distance(student, teacher, "low", *context, **options)
    return low_weight * low + details_weight * relaxed_distance(student, teacher, "details", *context, **options)


class FreeKDPlusLoss(FreeKDLoss):
    """FreeKD+ over a feature pyramid: `freekd_plus_loss` of every level, added up.

    Prompts, relation and their files are those of `FreeKDLoss`, whose first stage trains them.

    Args:
        channels: see `FreeKDLoss`.
        num_levels: see `FreeKDLoss`.
        num_prompts: see `FreeKDLoss`.
        preset: "paper", "official" or "details": the defaults of `combine`, `relation` and `tokens_per`, as in `FreeKDLoss`.
            "details" has no masks and no first stage.
        refine: see `freekd_plus_loss`.
        low_weight: see `freekd_plus_loss`.
        details_weight: see `freekd_plus_loss`.
        combine: see `freekd_loss`.
        relation: see `FreeKDLoss`.
        window: see `FreeKDLoss`.
        depth: levels of the transform.
        wavelet: see `wavedec2`.
        tokens_per: "subband" or "scale", see `FrequencyPrompt`.
        score: "signed" or "magnitude", see `FrequencyPrompt`.
        loss_weight: factor on the result.

    Shape:
        student_feats, teacher_feats: num_levels maps (N, C, H, W), or one map. Output: a scalar.

    Raises:
        ValueError: an argument out of range or missing; maps that are not num_levels, or do not fit.

    References:
        See `freekd_plus_loss`.

    Config::

        dict(type='freqkd.FreeKDPlusLoss')  # in a term with prompts='.../prompts.pth'
        dict(type='freqkd.FreeKDPlusLoss', preset='details')  # without a first stage

    Example:
        >>> loss = FreeKDPlusLoss(preset="details", depth=1, loss_weight=2.0)
        >>> teacher = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> round(loss(teacher + 1, teacher).item(), 4)
        1.6
    """

    level_loss = staticmethod(freekd_plus_loss)

    def __init__(
        self,
        channels: int | Sequence[int] | None = None,
        num_levels: int | None = None,
        num_prompts: int = 2,
        preset: str = "paper",
        *,
        refine: bool = True,
        low_weight: float = 1.0,
        details_weight: float = 1.0,
        combine: str | None = None,
        relation: str | None = None,
        window: int = WINDOW,
        depth: int = 3,
        wavelet: str = "haar",
        tokens_per: str | None = None,
        score: str = "signed",
        loss_weight: float = 1.0,
    ) -> None:
        check_flag("refine", refine)
        check_at_least("low_weight", low_weight, 0)
        check_at_least("details_weight", details_weight, 0)
        check_choice("preset", preset, ("paper", "official", "details"))  # others weigh bands, which has no place here
        super().__init__(
            channels,
            num_levels,
            num_prompts,
            preset,
            combine=combine,
            relation=relation,
            window=window,
            depth=depth,
            wavelet=wavelet,
            tokens_per=tokens_per,
            score=score,
            loss_weight=loss_weight,
        )
        weights = dict(low_weight=low_weight, details_weight=details_weight)
        shared = {name: self.options[name] for name in ("combine", "depth", "wavelet")}
        self.level_options = dict(shared, **weights, refine=refine)


def relaxed_low_loss(
    student: Maps,
    teacher: Maps,
    *,
    low_weight: float = 1.0,
    details_weight: float = 1.0,
    depth: int = 3,
) -> Tensor:
    r"""Return the inverse of FreeKD+: relaxed on the low band, strict on the details, added over the levels.

    .. math:: \sum_l \lambda_{low} \overline{ \| (\hat s_l - \hat t_l)_{low} \|^2 }
              + \lambda_{details} \frac{1}{\sigma_t^2} \overline{ \| (s_l - t_l)_{details} \|^2 }

    The details must be equal: their squared error, in units of the teacher's variance. Of the low band, which holds the
    channels' magnitude, only the correlation counts, as in PKD. No masks, no first stage. The symbols are those of
    `freekd_plus_loss`; the transform is Haar's.

    Args:
        student: a map or a list of maps, one per level.
        teacher: the teacher's maps, likewise; they receive no gradient.
        low_weight: factor of the low band.
        details_weight: factor of the details.
        depth: levels of the transform.

    Shape:
        Maps: (N, C, H, W), of one shape on both sides. Output: a scalar.

    Raises:
        ValueError: numbers of maps or shapes differ, or an argument is out of range.

    References:
        An addition of this package, for what its study of forms suggests: see docs/comparison.md.

    Example:
        >>> teacher = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> round(relaxed_low_loss(teacher + 1, teacher, depth=1).item(), 4)  # a shift costs nothing
        0.0
        >>> round(relaxed_low_loss(3 * teacher, teacher, depth=1).item(), 4)  # a scale the details: 2^2 * (4 + 1) / 4 / 1.25
        4.0
    """

    def compare(student_feat: Tensor, teacher_feat: Tensor) -> Tensor:
        low = relaxed_distance(student_feat, teacher_feat, "low", depth=depth)
        return low_weight * low + details_weight * strict_distance(student_feat, teacher_feat, "details", depth=depth)

    return sum_levels(compare, student, teacher)


class RelaxedLowLoss(nn.Module):
    """`relaxed_low_loss` times `loss_weight`.

    Args:
        low_weight: factor of the low band.
        details_weight: factor of the details.
        depth: levels of the transform.
        loss_weight: factor on the result.

    Config::

        dict(type='freqkd.RelaxedLowLoss')

    Example:
        >>> teacher = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> round(RelaxedLowLoss(depth=1, loss_weight=2.0)(3 * teacher, teacher).item(), 4)
        8.0
    """

    def __init__(
        self, low_weight: float = 1.0, details_weight: float = 1.0, depth: int = 3, loss_weight: float = 1.0
    ) -> None:
        super().__init__()
        weights = dict(low_weight=low_weight, details_weight=details_weight)
        for name, value in {**weights, "loss_weight": loss_weight}.items():
            check_at_least(name, value, 0)
        check_whole("depth", depth, 1, most=DEEPEST)
        self.options: dict[str, Any] = dict(weights, depth=depth)
        self.loss_weight = loss_weight

    def forward(self, student_feats: Maps, teacher_feats: Maps) -> Tensor:
        """Return the weighted loss."""
        return self.loss_weight * relaxed_low_loss(student_feats, teacher_feats, **self.options)
