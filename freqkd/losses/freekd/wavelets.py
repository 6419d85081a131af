"""Two-dimensional wavelet transforms of feature maps: Haar by butterflies, other wavelets by pytorch_wavelets."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from freqkd.utils.checks import check_choice, check_map, check_whole, upcast

__all__ = ["Subbands", "wavedec2", "waverec2", "without_low"]

HAAR_NAMES = ("haar", "db1")
BOUNDARIES = ("zero", "valid")
DEEPEST = 10  # levels: a block of 1024 x 1024 positions of a feature map
_ROOM = 2**16  # positions that blocks may fill of any map
_SHARE = 64  # times its positions that they may fill of a large one


def check_depth(level: int, size: tuple[int, int], name: str = "level") -> None:
    """Raise ValueError where blocks of 2^level x 2^level positions are absurdly larger than a map of `size`.

    Depths up to 8 always pass: small maps are padded.

    >>> check_depth(9, (100, 152))
    >>> check_depth(10, (100, 152))
    Traceback (most recent call last):
    ...
    ValueError: level must fit the map: blocks of 1024x1024 positions for level=10, got a map of 100x152; level=7 fits
    """
    height, width = size
    block = 2**level
    filled = (-(-height // block) * block) * (-(-width // block) * block)
    if filled > max(_ROOM, _SHARE * height * width):
        fitting = max((min(size) - 1).bit_length(), 1)
        raise ValueError(
            f"{name} must fit the map: blocks of {block}x{block} positions for {name}={level}, got a map of "
            f"{height}x{width}; {name}={fitting} fits"
        )


class Subbands(NamedTuple):
    """The bands of one transform: `low` (N, C, h, w), and `details`, finest level first, each (N, C, 3, h, w).

    The three orientations are LH, HL, HH, in the order and with the signs of PyWavelets' `(cH, cV, cD)`:
    LH differs along the height (horizontal edges), HL along the width (vertical edges), HH along both.
    """

    low: Tensor
    details: tuple[Tensor, ...]


def wavedec2(x: Tensor, wavelet: str = "haar", level: int = 3, boundary: str = "zero") -> Subbands:
    r"""Split a feature map into a low band and `level` levels of detail bands.

    One Haar level maps every block [[a, b], [c, d]] of 2 x 2 positions to

    .. math:: low = (a+b+c+d)/2,\quad LH = (a+b-c-d)/2,\quad HL = (a-b+c-d)/2,\quad HH = (a-b-c+d)/2

    and `low` is split again. The transform is orthonormal: it keeps the sum of squares. It is linear:
    `wavedec2(s) - wavedec2(t) == wavedec2(s - t)`. Odd sizes get one row or column of zeros at the end, at
    every level, as in PyWavelets' mode "zero". float64 stays float64; everything else computes in float32, under
    autocast too.

    Args:
        x: the feature map.
        wavelet: a name PyWavelets knows. "haar" needs torch alone, and compiles and vectorises; any other needs
            the packages pytorch_wavelets and PyWavelets.
        level: how often the low band is split, 1 to 10.
        boundary: "zero" as above, or "valid" (Haar alone): a block that the border cuts is the mean of the positions it
            has, times the root of their number, so that a constant map has no details at any size. Inside, and for sizes that
            are multiples of 2^level, both are the same, and both keep the sum of squares. `waverec2` is for "zero".

    Shape:
        x: (N, C, H, W); low: (N, C, h, w) with h = ceil(H / 2^level); details[j]: (N, C, 3, ceil(H / 2^(j+1)), ...).
        Longer wavelets give longer bands, the lengths of PyWavelets' mode "zero".

    Raises:
        ValueError: `x` is not a map, `level` is out of range or too deep for it, or `wavelet` is unknown.
        ImportError: `wavelet` is not Haar and pytorch_wavelets is missing.

    Example:
        >>> low, details = wavedec2(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), level=1)
        >>> low.item(), details[0].flatten().tolist()
        (5.0, [-2.0, -1.0, 0.0])
        >>> odd = torch.ones(1, 1, 3, 3)
        >>> [round(wavedec2(odd, level=1, boundary=edge).details[0].abs().sum().item()) for edge in ("zero", "valid")]
        [4, 0]
    """
    check_map("x", x)
    check_whole("level", level, 1, most=DEEPEST)
    check_depth(level, (x.shape[-2], x.shape[-1]))
    check_choice("boundary", boundary, BOUNDARIES)
    low = upcast(x)
    if wavelet not in HAAR_NAMES:
        if boundary != "zero":
            raise ValueError(f"boundary must be 'zero' for wavelets other than Haar, got {boundary!r} with {wavelet!r}")
        return _library_wavedec2(low, wavelet, level)
    details = []
    counts = [low.new_ones(side) for side in low.shape[-2:]]
    for _ in range(level):
        low, detail = _haar_split(low) if boundary == "zero" else _valid_haar_split(low, counts)
        details.append(detail)
    return Subbands(low, tuple(details))


def without_low(x: Tensor, level: int = 1) -> Tensor:
    """Return a map without its low band: the inverse Haar transform of the details alone.

    That is each position minus the mean of its block of 2^level x 2^level positions; a block that the border cuts has the mean
    of the positions it has, so a constant map has no details at any size.

    Args:
        x: the feature map.
        level: levels of the transform, 1 to 10.

    Shape:
        x: (N, C, H, W), of any size; output: likewise, in the precision of `x`.

    Raises:
        ValueError: `x` is not a map, or `level` is out of range or too deep for it.

    Example:
        >>> without_low(torch.tensor([[[[1.0, 2.0, 7.0], [3.0, 4.0, 9.0]]]]))[0, 0]
        tensor([[-1.5000, -0.5000, -1.0000],
                [ 0.5000,  1.5000,  1.0000]])
    """
    check_map("x", x)
    check_whole("level", level, 1, most=DEEPEST)
    height, width = x.shape[-2:]
    check_depth(level, (height, width))
    means = F.avg_pool2d(upcast(x), 2**level, ceil_mode=True, count_include_pad=False)
    low = means.repeat_interleave(2**level, -2)[..., :height, :].repeat_interleave(2**level, -1)[..., :width]
    return (upcast(x) - low).to(x.dtype)


def waverec2(bands: Subbands, wavelet: str = "haar", size: tuple[int, int] | None = None) -> Tensor:
    """Join the bands of `wavedec2` to the feature map they came from.

    Args:
        bands: low band and details, as `wavedec2` returns them.
        wavelet: the wavelet they were made with.
        size: (H, W) of the result: the zero row or column that an odd size was padded with is cropped. None keeps it.

    Shape:
        Output: (N, C, H, W), exactly `size`.

    Raises:
        ValueError: the bands do not fit one another, or cannot have come from a map of `size`.

    Example:
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch...>
        >>> x = torch.randn(1, 2, 7, 11)
        >>> torch.allclose(waverec2(wavedec2(x), size=(7, 11)), x, atol=1e-6)
        True
    """
    low, details = upcast(bands.low), bands.details
    if not details:
        raise ValueError("bands must have at least one level of details, got none")
    join = _haar_join if wavelet in HAAR_NAMES else _library_join(wavelet, low)
    with torch.autocast(low.device.type, enabled=False):
        for index in reversed(range(len(details))):
            detail = upcast(details[index])
            low = _crop(low, (detail.shape[-2], detail.shape[-1]), f"details[{index}]")
            low = join(low, detail)
    return low if size is None else _crop(low, size, "size")


def _haar_split(x: Tensor) -> tuple[Tensor, Tensor]:
    height, width = x.shape[-2:]
    if height % 2 or width % 2:
        x = F.pad(x, (0, width % 2, 0, height % 2))
    # Rows first, whose halves are contiguous.
    upper, lower = _even_odd(x * 0.5, -2)
    sum_left, sum_right = _even_odd(upper + lower, -1)
    diff_left, diff_right = _even_odd(upper - lower, -1)
    detail = torch.stack((diff_left + diff_right, sum_left - sum_right, diff_left - diff_right), dim=-3)
    return sum_left + sum_right, detail


def _valid_haar_split(x: Tensor, counts: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Split a map whose rows and columns stand for `counts` positions each; the counts become those of the low band."""
    low, high = _weighted_pairs(x, counts[0][:, None], -2)
    (low, hl), (lh, hh) = (_weighted_pairs(half, counts[1], -1) for half in (low, high))
    counts[:] = [F.pad(count, (0, count.numel() % 2)).view(-1, 2).sum(1) for count in counts]
    return low, torch.stack((lh, hl, hh), dim=-3)


def _weighted_pairs(x: Tensor, counts: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    r"""Return (\sqrt p a + \sqrt q b, \sqrt q a - \sqrt p b) / \sqrt{p + q} of neighbours that stand for p and q positions."""
    after = (0, x.shape[-1] % 2) if dim == -1 else (0, 0, 0, x.shape[-2] % 2)
    a, b = _even_odd(F.pad(x, after), dim)
    p, q = _even_odd(F.pad(counts, after), dim)
    share, rest = (p / (p + q)).sqrt(), (q / (p + q)).sqrt()
    return share * a + rest * b, rest * a - share * b


def _even_odd(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    if torch.compiler.is_compiling():
        # The divisions of unflatten exceed the compiler's recursion limit once sizes are symbolic (multi-scale input).
        return (x[..., 0::2], x[..., 1::2]) if dim == -1 else (x[..., 0::2, :], x[..., 1::2, :])
    # Backward stacks both halves, where a slice's fills a full-size map of zeros for each.
    even, odd = torch.unflatten(x, dim, (-1, 2)).unbind(dim)
    return even, odd


def _haar_join(low: Tensor, detail: Tensor) -> Tensor:
    low = low * 0.5
    lh, hl, hh = (detail * 0.5).unbind(-3)
    row_sum, row_diff = low + lh, low - lh
    column_sum, column_diff = hl + hh, hl - hh
    upper = torch.stack((row_sum + column_sum, row_sum - column_sum), dim=-1)
    lower = torch.stack((row_diff + column_diff, row_diff - column_diff), dim=-1)
    # Sizes written out: inferred ones are slow to compile where they are symbolic.
    shape = (*low.shape[:-2], 2 * low.shape[-2], 2 * low.shape[-1])
    return torch.stack((upper, lower), dim=-3).reshape(shape)


def _crop(x: Tensor, size: tuple[int, int], name: str) -> Tensor:
    height, width = size
    # Joining gives the padded size, which is even and at most one row or column too large.
    if not (0 <= x.shape[-2] - height <= 1 and 0 <= x.shape[-1] - width <= 1):
        raise ValueError(
            f"{name} of {height}x{width} positions does not fit the coarser bands, which join to "
            f"{x.shape[-2]}x{x.shape[-1]} (one row or column less at most)"
        )
    return x[..., :height, :width]


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"wavelets other than 'haar' need pytorch_wavelets, PyWavelets and setuptools<82 ({error}); "
            'pip install "freqkd[wavelets]", or use wavelet="haar"'
        ) from error


@lru_cache(maxsize=32)
def _library_transform(wavelet: str, level: int, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
    """Return pytorch_wavelets' transform of `level` levels, for level 0 its inverse, with taps exact in `dtype`."""
    library, names = _library("pytorch_wavelets"), _library("pywt")
    try:
        bank = names.Wavelet(wavelet)
    except ValueError as error:
        raise ValueError(f"wavelet must be a discrete wavelet PyWavelets knows, got {wavelet!r} ({error})") from None
    with torch.inference_mode(False):  # the module outlives this call: training may meet it after an inference
        if level:
            module = library.DWTForward(J=level, wave=bank, mode="zero")
            # Flipped, as the library stores them for its convolution.
            taps = {"h0": bank.dec_lo[::-1], "h1": bank.dec_hi[::-1]}
        else:
            module = library.DWTInverse(wave=bank, mode="zero")
            taps = {"g0": bank.rec_lo, "g1": bank.rec_hi}
        # The library rounds its taps to float32, whatever dtype it is moved to later.
        for name in [f"{filt}_{side}" for filt in taps for side in ("col", "row")]:
            tap = torch.tensor(taps[name[:2]], dtype=torch.float64)
            setattr(module, name, tap.view_as(getattr(module, name)))
        return cast(torch.nn.Module, module.to(device=device, dtype=dtype))


def _library_wavedec2(x: Tensor, wavelet: str, level: int) -> Subbands:
    transform = _library_transform(wavelet, level, x.dtype, x.device)
    with torch.autocast(x.device.type, enabled=False):
        low, details = transform(x)
    return Subbands(low, tuple(details))


def _library_join(wavelet: str, low: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    inverse = _library_transform(wavelet, 0, low.dtype, low.device)
    return lambda low, detail: cast(Tensor, inverse((low, [detail])))
