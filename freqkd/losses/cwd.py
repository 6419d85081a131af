"""CWD: channel-wise distillation, the KL divergence between distributions of a channel over the positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqkd.losses.logits.loss import Logits, check_ignore_index
from freqkd.utils.checks import as_maps, check_at_least, check_positive, check_same_shape, upcast

__all__ = ["CWDLoss", "cwd_loss"]


def cwd_loss(
    student: Logits,
    teacher: Logits,
    target: Logits | None = None,
    *,
    tau: float = 4.0,
    ignore_index: int | None = None,
) -> Tensor:
    """Compare where each channel is active: KL between softmaxes over the positions.

    `tau^2 / (N C) * sum_nc KL(softmax_HW(t / tau) || softmax_HW(s / tau))`. The maps may be logits or features. Of
    several maps (levels) every channel of every image counts the same. Ignored positions are left out of the softmax;
    an image without a valid position is left out of the mean, and without any image the loss is 0, gradient too. A map
    of one position gives 0. Computed in float32 at least, from log probabilities: finite for any gap.

    Args:
        student: map (N, C, H, W), or a list of these.
        teacher: the same shapes; gets no gradient.
        target: labels (N, H, W), or a list of these; only read for `ignore_index`.
        tau: temperature. The authors take 4 with weight 3 on segmentation logits, OpenMMLab 1 with weight 5.
        ignore_index: label of positions that do not count.

    Returns:
        A scalar.

    Raises:
        ValueError: for shapes that differ or are not those of maps, labels of another shape, `tau` not above 0,
            `ignore_index` without `target`.

    References:
        Shu et al., arXiv 2011.13256. Differs from the paper in dividing by N as well, as the programs do; from the
        authors' program in taking the logarithm inside the softmax (the program's underflows).

    >>> _ = torch.manual_seed(0)
    >>> print(f"{cwd_loss(torch.randn(1, 2, 4, 4), torch.randn(1, 2, 4, 4), tau=1.0).item():.4f}")
    1.0072
    """
    check_positive("tau", tau)
    check_ignore_index(ignore_index)
    if ignore_index is not None and target is None:
        raise ValueError("target must be given: ignore_index names positions by their label")
    pairs = as_maps(student, teacher)
    targets = [target] * len(pairs) if target is None or isinstance(target, Tensor) else list(target)
    if len(targets) != len(pairs):
        raise ValueError(f"target must have one entry for each of the {len(pairs)} maps, got {len(targets)}")
    sums, counts = [], []
    for (student_map, teacher_map), label in zip(pairs, targets):
        check_same_shape(student_map, teacher_map, "map")
        each = (len(student_map), *student_map.shape[2:])
        student_map, teacher_map = upcast(student_map).flatten(2) / tau, upcast(teacher_map).detach().flatten(2) / tau
        if ignore_index is None or label is None:
            divergence = F.kl_div(
                student_map.log_softmax(2), teacher_map.log_softmax(2), reduction="none", log_target=True
            )
            sums.append(divergence.sum())
            counts.append(student_map.new_tensor(float(student_map.shape[0] * student_map.shape[1])))
            continue
        if tuple(label.shape) != each:
            raise ValueError(f"target must have the shape (N, H, W) of the maps, {each}, got {tuple(label.shape)}")
        valid = (label.reshape(len(student_map), 1, -1) != ignore_index).expand_as(student_map)
        # the lowest number instead of -inf: an image without a valid position must not give nan
        student_map, teacher_map = (
            x.masked_fill(~valid, torch.finfo(x.dtype).min / 2).log_softmax(2) for x in (student_map, teacher_map)
        )
        divergence = F.kl_div(
            student_map.masked_fill(~valid, 0.0),
            teacher_map.masked_fill(~valid, 0.0),
            reduction="none",
            log_target=True,
        )
        sums.append(divergence.masked_fill(~valid, 0.0).sum())
        counts.append(valid.any(2).sum().to(student_map.dtype))
    return tau**2 * torch.stack(sums).sum() / torch.stack(counts).sum().clamp(min=1.0)


class CWDLoss(nn.Module):
    """Compare where each channel is active; see `cwd_loss`.

    Config::

        loss_cwd=dict(
            student_tap='decode_head.conv_seg', teacher_tap='decode_head.conv_seg',
            loss=dict(type='freqkd.CWDLoss', tau=4.0), weight=3.0)

    >>> CWDLoss(tau=1.0)(torch.ones(1, 2, 3, 3), torch.ones(1, 2, 3, 3)).item()
    0.0
    """

    def __init__(self, tau: float = 4.0, ignore_index: int | None = None, loss_weight: float = 1.0) -> None:
        super().__init__()
        check_positive("tau", tau)
        check_ignore_index(ignore_index)
        check_at_least("loss_weight", loss_weight, 0)
        self.tau, self.ignore_index, self.loss_weight = tau, ignore_index, loss_weight

    def forward(self, student: Logits, teacher: Logits, target: Logits | None = None) -> Tensor:
        return self.loss_weight * cwd_loss(student, teacher, target, tau=self.tau, ignore_index=self.ignore_index)
