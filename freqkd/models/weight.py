"""Weight of a term: a number, or a ratio to the task's gradient at the tapped features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn

from freqkd.utils.checks import check_at_least, check_positive, check_whole

_SCALES = tuple(2.0**power for power in (16, 8, 0, -8, -16))
_KINDS = {"task_sum": torch.float64, "term_sum": torch.float64, "count": torch.long}


def gradient_norm(loss: Tensor, maps: Sequence[Tensor]) -> Tensor:
    """Return the norm of d loss / d maps, all maps taken as one vector, averaged over processes.

    A gradient in float16 would underflow (1/numel is about 1e-7), so it is computed at a larger scale and divided back; one
    that overflows, at the next smaller scale.

    Raises:
        ValueError: no map carries a gradient.

    >>> x = torch.tensor([3.0, 4.0], requires_grad=True)
    >>> float(gradient_norm((x * x).sum() / 2, [x]))
    5.0
    """
    wanted = [tensor for tensor in maps if tensor.requires_grad]
    if not wanted:
        raise ValueError(
            "a ratio weight and monitor= need tapped student features that carry a gradient, but none does: the tapped part "
            "of the student is frozen; tap a later module, or give the weight as a number and set monitor=0"
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
    all_reduce(norm, op="mean")
    return norm


class FixedWeight(nn.Module):
    """A number.

    Args:
        weight: at least 0.

    Raises:
        ValueError: it is negative, or not a number.
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


@dataclass
class Measurement:
    """What a ratio weight has measured: sums of both norms, and over how many iterations.

    A deep copy is the same object. `clone` and `copy_` are what tensors have, for those who put a step's changes back.
    """

    task_sum: float = 0.0
    term_sum: float = 0.0
    count: int = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Measurement:
        return self

    def clone(self) -> Measurement:
        """Return another one that holds the same."""
        return replace(self)

    def copy_(self, other: Measurement) -> None:
        """Take over what another one holds."""
        vars(self).update(vars(other))


def measurements(model: nn.Module) -> list[Measurement]:
    """Return what the ratio weights in a model have measured, which a training step changes, as it does buffers."""
    return [part.measured for part in model.modules() if isinstance(part, RatioWeight)]


class RatioWeight(nn.Module):
    """The weight that makes a term's gradient in a given ratio to the task's.

    w = ratio * mean_i |d task / d features| / mean_i |d term / d features|, running means over the iterations so far;
    from iteration `iters` on it is frozen. Multiplying the term by a constant therefore changes nothing.
    The state dict has the measurement, so it is saved with the checkpoint and restored on resume. It is not a buffer, and an
    averaged copy of the model (EMA) has the training's own: the mean of a counter counts nothing.

    Args:
        ratio: above 0; 0.5 lets the term pull half as hard as the task.
        iters: iterations measured, each at the cost of one more backward pass from the losses to the tap.

    Raises:
        ValueError: an argument out of range.

    >>> weight = RatioWeight(ratio=0.5, iters=2)
    >>> weight.update(torch.tensor(4.0), torch.tensor(100.0))
    >>> round(weight.value(), 4)
    0.02
    """

    def __init__(self, ratio: float, iters: int = 50) -> None:
        super().__init__()
        check_positive("weight.ratio", ratio)
        check_whole("weight.iters", iters, 1)
        self.ratio, self.iters = float(ratio), iters
        self.measured = Measurement()

    @property
    def wants_gradients(self) -> bool:
        """Whether the weight is still being measured."""
        return self.measured.count < self.iters

    def update(self, task_norm: Tensor, term_norm: Tensor) -> None:
        """Take in one iteration's gradient norms; a non-finite one (an overflow under AMP) is left out."""
        if not self.wants_gradients:
            return
        task, term = float(task_norm), float(term_norm)
        if math.isfinite(task) and math.isfinite(term):
            self.measured.task_sum += task
            self.measured.term_sum += term
            self.measured.count += 1

    def value(self) -> float:
        """Return the weight; 0 while the term has shown no gradient."""
        return self.ratio * self.measured.task_sum / self.measured.term_sum if self.measured.term_sum > 0 else 0.0

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, kind in _KINDS.items():
            destination[prefix + name] = torch.tensor(getattr(self.measured, name), dtype=kind)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        strict, missing = args[1:3]
        for name in _KINDS:
            if prefix + name in state_dict:
                setattr(self.measured, name, state_dict[prefix + name].item())
            elif strict:
                missing.append(prefix + name)
        others = {key: value for key, value in state_dict.items() if key[len(prefix) :] not in _KINDS}
        super()._load_from_state_dict(others, prefix, *args)


def build_weight(weight: float | Mapping[str, Any]) -> FixedWeight | RatioWeight:
    """Make a weight of a number or of `dict(ratio=..., iters=...)`.

    Raises:
        ValueError: neither of the two.

    >>> build_weight({"portion": 0.5})
    Traceback (most recent call last):
    ...
    ValueError: weight must be a number or dict(ratio=..., iters=50), got {'portion': 0.5}
    """
    if isinstance(weight, Mapping):
        if not set(weight) <= {"ratio", "iters"} or "ratio" not in weight:
            raise ValueError(f"weight must be a number or dict(ratio=..., iters=50), got {dict(weight)}")
        return RatioWeight(**weight)
    if isinstance(weight, bool) or not isinstance(weight, (int, float)):
        raise ValueError(f"weight must be a number or dict(ratio=..., iters=50), got {weight!r}")
    return FixedWeight(weight)
