"""Bilinear resizing as a matrix: its transpose, and the norms of a resized map without resizing it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from freqkd.losses.freekd.fused.guards import bilinear_backward, is_wrapped

# The diagonal of U and the one above it, along the rows and along the columns.
Factors = tuple[Tensor, Tensor, Tensor, Tensor]
MOST = 256  # pairs of sizes


def resize(x: Tensor, shape: torch.Size) -> Tensor:
    """Resize a map to the last two sizes of `shape`."""
    return F.interpolate(x, size=shape[-2:], mode="bilinear", align_corners=False)


def resize_back(x: Tensor, shape: torch.Size) -> Tensor:
    """Apply the transpose of the resizing from `shape` to the size of x.

    (psi(F) F^T) is also F' (psi^T F)^T with F' the deeper map: a product of a quarter of the positions.
    """
    size = [x.shape[0], x.shape[1], shape[-2], shape[-1]]
    backward = bilinear_backward()
    if backward is None or (x.is_cuda and torch.are_deterministic_algorithms_enabled()):
        rows, columns = (resize_matrix(shape[dim], x.shape[dim], x) for dim in (-2, -1))
        return rows.t() @ x @ columns
    return backward(x, list(x.shape[-2:]), size, False)


def resize_matrix(before: int, after: int, like: Tensor) -> Tensor:
    """Return the (after, before) matrix of the resizing along one dimension."""
    identity = torch.eye(before, dtype=like.dtype, device=like.device)
    return F.interpolate(identity[None], size=after, mode="linear", align_corners=False)[0].t()


def _resizing(
    before: torch.Size, after: torch.Size, dtype: torch.dtype, device: torch.device, keep: bool
) -> tuple[Tensor, Factors | None]:
    """Return the share of every deeper position in the mean, psi^T 1 / (H W), and the factors U of `squares_of_resized`.

    U^T U = R^T R, R the resizing along one dimension. A row of R mixes two neighbours, so R^T R is tridiagonal and U,
    its Cholesky factor, has a diagonal and the one above. None where psi skips positions, as U may not exist, and
    where it would be made for every call.
    """
    with torch.inference_mode(False), torch.no_grad():  # kept ones outlive the call: training may follow an inference
        like = torch.empty((), dtype=dtype, device=device)
        matrices = [resize_matrix(before[dim], after[dim], like) for dim in (0, 1)]
        share = matrices[0].sum(0)[:, None] * matrices[1].sum(0) / (after[0] * after[1])
        if not keep or after[0] < before[0] or after[1] < before[1]:
            return share, None
        squares = (matrix.double().t() @ matrix.double() for matrix in matrices)
        rows, columns = (torch.linalg.cholesky(square, upper=True).to(dtype) for square in squares)
        return share, (rows.diagonal()[:, None], rows.diagonal(1)[:, None], columns.diagonal(), columns.diagonal(1))


_kept: dict[tuple[object, ...], tuple[Tensor, Factors | None]] = {}


def resizing(before: Tensor, after: Tensor) -> tuple[Tensor, Factors | None]:
    """Return `_resizing` from the size of one map to that of another, made once for every pair of sizes."""
    keep = type(after) is Tensor
    key = (before.shape[-2:], after.shape[-2:], after.dtype, after.device)
    if keep and key in _kept:
        return _kept[key]
    made = _resizing(*key, keep)
    if keep and type(made[0]) is Tensor and not is_wrapped(made[0]):
        if len(_kept) >= MOST:
            _kept.clear()
        _kept[key] = made
    return made


def squares_of_resized(x: Tensor, factors: Factors, first: int, last: int) -> Tensor:
    """Return what some rows of x add to the squares of the resized map, by position of x: |R x|^2 = |U x|^2."""
    diagonal, above, diagonal_columns, above_columns = factors
    below = x[:, :, first + 1 : last + 1]
    mixed = x[:, :, first:last] * diagonal[first:last]
    mixed[:, :, : below.shape[2]].addcmul_(below, above[first:last])
    squares = mixed * diagonal_columns
    squares[..., :-1].addcmul_(mixed[..., 1:], above_columns)
    return squares.square_()
