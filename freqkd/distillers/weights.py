"""How much a term counts: a number, or a share of the task's gradient at the tapped features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor, nn

from freqkd.checks import check_at_least

_SCALES = (2.0**16, 2.0**8, 1.0)


def gradient_norm(loss: Tensor, maps: Sequence[Tensor]) -> Tensor:
    """Return the norm of d loss / d maps, all maps taken as one vector, averaged over processes.

    A gradient in float16 would underflow (1/numel is about 1e-7), so it is computed at a larger scale and divided back.

    Raises:
        ValueError: no map carries a gradient.

    >>> x = torch.tensor([3.0, 4.0], requires_grad=True)
    >>> float(gradient_norm((x * x).sum() / 2, [x]))
    5.0
    """
    wanted = [tensor for tensor in maps if tensor.requires_grad]
    if not wanted:
        raise ValueError(
            "a share weight needs tapped student features that carry a gradient, but none does: the tapped part of "
            "the student is frozen; tap a later module or give the weight as a number"
        )
    norm = loss.new_zeros((), dtype=torch.float64)
    scales = _SCALES if any(tensor.dtype == torch.float16 for tensor in wanted) else (1.0,)
    # A loss without a graph has no gradient; its process still takes part in the mean.
    for scale in scales if loss.requires_grad else ():
        gradients = torch.autograd.grad(loss * scale, wanted, retain_graph=True, allow_unused=True)
        squares = [gradient.double().square().sum() for gradient in gradients if gradient is not None]
        norm = torch.stack(squares).sum().sqrt() / scale if squares else norm
        if torch.isfinite(norm):
            break
    if get_world_size() > 1:
        all_reduce(norm, op="mean")
    return norm


class FixedWeight(nn.Module):
    """A number.

    Args:
        weight: at least 0.
    """

    def __init__(self, weight: float) -> None:
        super().__init__()
        check_at_least("weight", weight, 0)
        self.weight = float(weight)
        self.wants_gradients = False

    def update(self, task_norm: Tensor, term_norm: Tensor) -> None:
        """Do nothing: a number needs no measurement."""

    def value(self) -> float:
        """Return the weight."""
        return self.weight


class ShareWeight(nn.Module):
    """The weight that makes a term's gradient a given share of the task's.

    w = share * mean_i |d task / d features| / mean_i |d term / d features|, running means over the iterations so far;
    from iteration `iters` on it is frozen. Multiplying the term by a constant therefore changes nothing.
    Its measurements are buffers: saved with the checkpoint, restored on resume.

    Args:
        share: above 0; 0.5 lets the term pull half as hard as the task.
        iters: iterations measured, each at the cost of one more backward pass from the losses to the tap.

    >>> weight = ShareWeight(share=0.5, iters=2)
    >>> weight.update(torch.tensor(4.0), torch.tensor(100.0))
    >>> round(float(weight.value()), 4)
    0.02
    """

    task_sum: Tensor
    term_sum: Tensor
    count: Tensor

    def __init__(self, share: float, iters: int = 50) -> None:
        super().__init__()
        check_at_least("weight.share", share, 0, exclusive=True)
        check_at_least("weight.iters", iters, 1)
        self.share, self.iters = float(share), int(iters)
        self.register_buffer("task_sum", torch.zeros((), dtype=torch.float64))
        self.register_buffer("term_sum", torch.zeros((), dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    @property
    def wants_gradients(self) -> bool:
        """Whether the weight is still being measured."""
        return int(self.count) < self.iters

    def update(self, task_norm: Tensor, term_norm: Tensor) -> None:
        """Take in one iteration's gradient norms; a non-finite one (an overflow under AMP) is left out."""
        if self.wants_gradients and bool(torch.isfinite(task_norm)) and bool(torch.isfinite(term_norm)):
            self.task_sum += task_norm
            self.term_sum += term_norm
            self.count += 1

    def value(self) -> Tensor:
        """Return the weight; 0 while the term has shown no gradient."""
        ratio = self.share * self.task_sum / self.term_sum
        return torch.where(self.term_sum > 0, ratio, torch.zeros_like(ratio)).float()


def build_weight(weight: float | Mapping[str, Any]) -> FixedWeight | ShareWeight:
    """Make a weight of a number or of `dict(share=..., iters=...)`.

    Raises:
        ValueError: neither of the two.

    >>> build_weight({"portion": 0.5})
    Traceback (most recent call last):
    ...
    ValueError: weight must be a number or dict(share=..., iters=50), got {'portion': 0.5}
    """
    if isinstance(weight, Mapping):
        if not set(weight) <= {"share", "iters"} or "share" not in weight:
            raise ValueError(f"weight must be a number or dict(share=..., iters=50), got {dict(weight)}")
        return ShareWeight(**weight)
    if isinstance(weight, bool) or not isinstance(weight, (int, float)):
        raise ValueError(f"weight must be a number or dict(share=..., iters=50), got {weight!r}")
    return FixedWeight(weight)
