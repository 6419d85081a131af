"""Local relation: the channel attention of FreeKD within windows of positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from freqkd.losses.freekd.relation import TEMPERATURE, attention_weights, channel_relation, check_relation_maps
from freqkd.utils.checks import WIDEST, check_positive, check_same_shape, check_whole, upcast

__all__ = ["local_relation_weights"]

WINDOW = 8


@torch.no_grad()
def local_relation_weights(
    student_feat: Tensor,
    teacher_feat: Tensor,
    student_deeper: Tensor | None = None,
    teacher_deeper: Tensor | None = None,
    *,
    window: int = WINDOW,
    temperature: float = TEMPERATURE,
) -> Tensor:
    r"""Return channel weights for every window of positions, mean 1 over the channels and without gradient.

    .. math:: \omega_{c w} \propto \omega^{teacher}_{c w} \, \omega^{student}_{c w}

    The map is cut into windows w of `window` x `window` positions, those at the end of odd sizes smaller. In each,
    :math:`\omega` is `attention_weights` of `channel_relation` over the positions of that window alone: the correlation of the
    channels there. One window as large as the map gives `relation_weights`. Nothing is learned. A window of one position has
    no correlation and weights of 1.

    Args:
        student_feat: the student's map, already with the teacher's channels.
        teacher_feat: the teacher's map.
        student_deeper: the student's next deeper level, resized to the map (bilinear); None relates the map to itself.
        teacher_deeper: the teacher's.
        window: side of a window in positions.
        temperature: see `channel_relation`.

    Shape:
        Maps: (N, C, H, W); output: (N, C, H, W), constant over each window.

    Raises:
        ValueError: student and teacher differ in shape, one is not a map, or an argument is out of range.

    References:
        An addition of this package: FreeKD, arXiv 2311.12079, has one matrix A for the whole map.

    Example:
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch...>
        >>> student, teacher = torch.randn(2, 1, 3, 8, 8)
        >>> weights = local_relation_weights(student, teacher, window=4)
        >>> weights.shape, weights[0].unique(dim=1).shape, round(weights.mean().item(), 4)
        (torch.Size([1, 3, 8, 8]), torch.Size([3, 2, 8]), 1.0)
    """
    check_relation_maps(student_feat, student_deeper, "student_")
    check_relation_maps(teacher_feat, teacher_deeper, "teacher_")
    check_same_shape(student_feat, teacher_feat)
    check_positive("temperature", temperature)
    check_whole("window", window, 1, most=WIDEST)
    student = _window_weights(student_feat, student_deeper, window, temperature)
    weights = _window_weights(teacher_feat, teacher_deeper, window, temperature) * student
    return weights / weights.mean(1, keepdim=True)


def _window_weights(feat: Tensor, deeper: Tensor | None, window: int, temperature: float) -> Tensor:
    """Return the attention weights of one network, (N, C, H, W): row by row of windows, to bound the memory of C x C."""
    feat = upcast(feat)
    height, width = feat.shape[-2:]
    resized = feat
    if deeper is not None:
        resized = F.interpolate(upcast(deeper), size=(height, width), mode="bilinear", align_corners=False)
    whole = width // window * window
    widths = [side for side in (whole, width - whole) if side]
    rows = []
    for pair in zip(torch.split(feat, window, 2), torch.split(resized, window, 2)):
        columns = []
        for part, below in zip(*(torch.split(row, widths, 3) for row in pair)):
            side = min(window, part.shape[3])
            relation = channel_relation(_as_batch(part, side), _as_batch(below, side), temperature, fused=False)
            omega = torch.unflatten(attention_weights(relation), 0, (len(feat), -1)).transpose(1, 2)
            columns.append(omega.repeat_interleave(side, 2))
        rows.append(torch.cat(columns, 2)[:, :, None].expand(-1, -1, pair[0].shape[2], -1))
    return torch.cat(rows, 2)


def _as_batch(row: Tensor, side: int) -> Tensor:
    """Return the windows of one row of windows as a batch: (N, C, h, K * side) -> (N * K, C, h, side)."""
    return torch.unflatten(row, 3, (-1, side)).permute(0, 3, 1, 2, 4).flatten(0, 1)
