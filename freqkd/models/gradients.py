"""Gradient of a loss at tapped maps: its norm, and its direction beside another's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from mmengine.dist import all_reduce
from torch import Tensor

_SCALES = tuple(2.0**power for power in (16, 8, 0, -8, -16))


@dataclass(frozen=True)
class TapGradient:
    """The gradient of a loss at some maps, all maps taken as one vector.

    Attributes:
        parts: d loss / d map times `scale`, in the order of the maps; None for a map that the loss does not reach.
        scale: the factor on all parts, at which they neither underflow nor overflow.
        square: the square of the gradient's norm in this process, in float64.
    """

    parts: tuple[Tensor | None, ...]
    scale: float
    square: Tensor

    def norm(self) -> Tensor:
        """Return the norm, averaged over processes."""
        norm = self.square.sqrt()
        all_reduce(norm, op="mean")
        return norm

    def cosine(self, other: TapGradient) -> Tensor:
        """Return the cosine between this gradient and another at the same maps, those of all processes as one vector.

        It is 0 where one of the gradients is 0.

        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> first, second = (tap_gradient(loss, [x]) for loss in (x.sum(), -3 * x[0]))
        >>> round(float(first.cosine(second)), 4)
        -0.7071
        """
        pairs = [
            (one, two) for one, two in zip(self.parts, other.parts, strict=True) if one is not None and two is not None
        ]
        product = sum(((one.double() * two.double()).sum() for one, two in pairs), torch.zeros_like(self.square))
        sums = torch.stack([product / (self.scale * other.scale), self.square, other.square])
        all_reduce(sums, op="sum")
        length = sums[1].sqrt() * sums[2].sqrt()
        return torch.where(length == 0, torch.zeros_like(length), sums[0] / length.clamp(min=1e-300))


def tap_gradient(loss: Tensor, maps: Sequence[Tensor]) -> TapGradient:
    """Return the gradient d loss / d maps; the graph is kept.

    A gradient in float16 would underflow (1/numel is about 1e-7), so it is computed at a larger scale; one that overflows, at
    the next smaller scale.

    Raises:
        ValueError: no map carries a gradient.
    """
    wanted = [tensor for tensor in maps if tensor.requires_grad]
    if not wanted:
        raise ValueError(
            "a ratio weight and monitor= need tapped student features that carry a gradient, but none does: the tapped part "
            "of the student is frozen; tap a later module, or give the weight as a number and set monitor=0"
        )
    found = TapGradient((None,) * len(wanted), 1.0, loss.new_zeros((), dtype=torch.float64))
    scales = _SCALES if any(tensor.dtype == torch.float16 for tensor in wanted) else (1.0,)
    # A loss without a graph has no gradient; its process still takes part in what is computed over all of them.
    for scale in scales if loss.requires_grad else ():
        parts = torch.autograd.grad(loss * scale, wanted, retain_graph=True, allow_unused=True)
        squares = [part.double().square().sum() for part in parts if part is not None]
        if squares:
            found = TapGradient(parts, scale, torch.stack(squares).sum() / scale**2)
        if torch.isfinite(found.square):
            break
    return found


def gradient_norm(loss: Tensor, maps: Sequence[Tensor]) -> Tensor:
    """Return the norm of d loss / d maps, all maps taken as one vector, averaged over processes.

    Raises:
        ValueError: no map carries a gradient.

    >>> x = torch.tensor([3.0, 4.0], requires_grad=True)
    >>> float(gradient_norm((x * x).sum() / 2, [x]))
    5.0
    """
    return tap_gradient(loss, maps).norm()
