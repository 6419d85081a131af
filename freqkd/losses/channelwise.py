"""CWD: what each channel attends to, a distribution over the positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqkd.checks import as_maps, check_at_least, check_positive, check_same_shape, upcast
from freqkd.losses.logits import Logits, check_ignore_index


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
        ValueError: for shapes that differ or are no maps, `tau` not above 0, `ignore_index` without `target`.

    References:
        Shu et al., arXiv 2011.13256. Differs from the paper in dividing by N as well, as the programs do; from the
        authors' program in taking the logarithm inside the softmax (theirs underflows).

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
    for (ours, theirs), label in zip(pairs, targets):
        check_same_shape(ours, theirs, "map")
        ours, theirs = upcast(ours).flatten(2) / tau, upcast(theirs).detach().flatten(2) / tau
        each = (ours.shape[0], *pairs[0][0].shape[2:])
        if ignore_index is None or label is None:
            divergence = F.kl_div(ours.log_softmax(2), theirs.log_softmax(2), reduction="none", log_target=True)
            sums.append(divergence.sum())
            counts.append(ours.new_tensor(float(ours.shape[0] * ours.shape[1])))
            continue
        if label.numel() != ours.shape[0] * ours.shape[2]:
            raise ValueError(f"target must have the shape (N, H, W) of the maps, {each}, got {tuple(label.shape)}")
        valid = (label.reshape(len(ours), 1, -1) != ignore_index).expand_as(ours)
        # the lowest number instead of -inf: an image without a valid position must not give nan
        ours, theirs = (x.masked_fill(~valid, torch.finfo(x.dtype).min / 2).log_softmax(2) for x in (ours, theirs))
        divergence = F.kl_div(
            ours.masked_fill(~valid, 0.0), theirs.masked_fill(~valid, 0.0), reduction="none", log_target=True
        )
        sums.append(divergence.masked_fill(~valid, 0.0).sum())
        counts.append(valid.any(2).sum().to(ours.dtype))
    return tau**2 * torch.stack(sums).sum() / torch.stack(counts).sum().clamp(min=1.0)


class CWDLoss(nn.Module):
    """Compare where each channel is active; see `cwd_loss`.

    Config::

        loss_cwd=dict(
            student='decode_head.conv_seg', teacher='decode_head.conv_seg',
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
