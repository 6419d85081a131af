"""Gains that make all detail bands of a teacher equally strong."""

from __future__ import annotations

import torch
from torch import Tensor

WEAKEST = 0.01  # of the mean square of all details: what a weaker band of the teacher counts as


def white_gains(squares: Tensor, counts: Tensor) -> Tensor:
    r"""Return for every detail band the mean square of all details over its own.

    .. math:: g_b = \frac{\bar v}{\max(v_b, \bar v / 100)},\quad \bar v = \frac{\sum_b n_b v_b}{\sum_b n_b}

    The energy of natural images falls with the frequency, and so does that of feature maps: unweighted, a squared error is
    mostly one of the coarsest scale. On average the gains leave it as it is.

    Args:
        squares: v_b, the mean of the teacher's squared coefficients in each band, over images, channels and positions.
        counts: n_b, how many they are.

    Shape:
        squares, counts, output: (bands,).

    >>> white_gains(torch.tensor([4.0, 16.0]), torch.tensor([4, 1]))
    tensor([1.6000, 0.4000])
    """
    mean = (squares * counts).sum() / counts.sum()
    tiny = torch.finfo(squares.dtype).tiny  # a constant map has gains of 1
    return (mean + tiny) / (torch.maximum(squares, WEAKEST * mean) + tiny)
