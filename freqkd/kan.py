"""KAN layers: sums of learned functions of one input each, made of B-splines."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from freqkd.utils.checks import WIDEST, check_choice, check_flag, check_map, check_positive, check_whole, upcast

__all__ = ["KANConv2d", "KANLinear", "spline_bases"]

Grid = tuple[int, int, float]  # G, k, r

BASES: dict[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "gelu": F.gelu}
SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": lambda x: x.sigmoid() * (1 + x * (-x).sigmoid()),
    "gelu": lambda x: 0.5 * (1 + (x * 0.5**0.5).erf()) + x * (-0.5 * x * x).exp() / (2 * math.pi) ** 0.5,
}
PAD_CHOICES = ("input", "functions")
TILE = 2**17  # numbers of a tile of bases: on a CPU, what its cache holds
ACCELERATOR_TILE = 2**24
NARROWEST = 64  # positions of a tile


@torch.no_grad()
def spline_bases(x: Tensor, grid_size: int = 5, spline_order: int = 3, grid_range: float = 1.0) -> Tensor:
    r"""Return the B-splines of equally wide intervals at every number, without a gradient.

    .. math:: B_m(x) = \frac{1}{k!} \sum_{j < (k + 1) / 2} (-1)^j \binom{k + 1}{j}
        \max\bigl(0, \tfrac{k + 1}{2} - j - \left| x / h - c_m \right|\bigr)^k,\quad h = 2 r / G

    with the G intervals of width h between -r and r, k further ones on both sides, and :math:`c_m = m - (G + k - 1) / 2`. It is
    the spline of Cox and de Boor, whose recursion is not needed where all intervals are equally wide. Between -r and r the
    splines add up to 1; from r + k h on all are 0.

    Args:
        x: numbers.
        grid_size: G.
        spline_order: k, 2 to 5.
        grid_range: r.

    Shape:
        x: (...); output: (..., G + k).

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> (6 * spline_bases(torch.tensor([0.0, 9.0]), grid_size=2)).round().int().tolist()
        [[0, 1, 4, 1, 0], [0, 0, 0, 0, 0]]
    """
    _check_grid(grid_size, spline_order, grid_range)
    grid = (grid_size, spline_order, grid_range)
    parts = [part[:-1].clone() for _, _, part, _ in _tiles(x.reshape(1, 1, -1), grid, slopes=False)]
    return torch.cat(parts, 1).mT.reshape(*x.shape, -1) * _factors(grid)[0]


def _check_grid(grid_size: int, spline_order: int, grid_range: float) -> None:
    check_whole("grid_size", grid_size, 1, most=1000)
    check_whole("spline_order", spline_order, 2, most=5)
    check_positive("grid_range", grid_range)


def _factors(grid: Grid) -> tuple[float, float]:
    """Return what the splines of `_tiles`, and their slopes, are to be multiplied with."""
    size, order, extent = grid
    sign = (-1) ** order
    return sign / math.factorial(order), sign / math.factorial(order - 1) * size / (2 * extent)


def _tiles(x: Tensor, grid: Grid, slopes: bool) -> Iterator[tuple[int, slice, Tensor, Tensor]]:
    """Yield the splines at the numbers (N, C, P), a part of the positions of an image at a time.

    Yields the image, the positions, the splines (C (G + k) + C, positions) and (`slopes`) their derivatives (C, G + k,
    positions), both lacking their `_factors`. The last C rows are left to the caller. All tiles share the memory of every step:
    fresh memory takes longer than the arithmetic. So the next tile overwrites what was yielded, and the caller may.
    """
    size, order, extent = grid
    channels, splines = x.shape[1], size + order
    budget = TILE if x.device.type == "cpu" else ACCELERATOR_TILE
    width = max(min(max(NARROWEST, budget // (channels * splines)), x.shape[2]), 1)
    centres = torch.arange(splines, dtype=x.dtype, device=x.device).sub_((splines - 1) / 2).view(-1, 1)
    scaled = (x * (size / (2 * extent))).unsqueeze(2)
    room = x.new_empty(5 if slopes else 3, channels * (splines + 1) * width)
    parts = [slice(start, min(start + width, x.shape[2])) for start in range(0, x.shape[2], width)]
    steps = [(-1) ** step * math.comb(order + 1, step) for step in range((order + 2) // 2)]
    shifts = x.new_tensor([(order + 1) / 2, *[-1.0] * (len(steps) - 1)]).unbind()  # as tensors, they need no conversion
    count = 0
    for image, part in itertools.product(range(x.shape[0]), parts):
        if part.stop - part.start != count:
            count = part.stop - part.start
            flat = room[2, : channels * (splines + 1) * count].view(-1, count)
            depth, power, values, *rest = (
                one[: channels * splines * count].view(channels, splines, count) for one in room
            )
            slope, sign = rest or (power, power)
        torch.sub(scaled[image, :, :, part], centres, out=depth)
        if slopes:
            torch.sign(depth, out=sign)
        depth.abs_()
        for step, factor in enumerate(steps):  # depth: minus how far a number lies inside the j-th part of a spline
            depth.sub_(shifts[step]).clamp_(max=0)
            if step == 0:
                torch.pow(depth, order, out=values)
                if slopes:
                    torch.pow(depth, order - 1, out=slope)
            elif slopes:
                torch.pow(depth, order - 1, out=power)
                values.addcmul_(power, depth, value=factor)
                slope.add_(power, alpha=factor)
            else:
                values.add_(torch.pow(depth, order, out=power), alpha=factor)
        yield image, part, flat, slope.mul_(sign) if slopes else slope


class _FunctionSum(torch.autograd.Function):
    """The sum over channels of their functions; the backward pass evaluates them again.

    Arguments: x (N, C, P), weights of the splines (O, C, G + k) and of the base function (O, C), the name of that, and G, k, r.
    Output: (N, O, P).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, splines: Tensor, base: Tensor, name: str, *grid: Any) -> Tensor:
        ctx.save_for_backward(x, splines, base)
        ctx.name, ctx.grid = name, grid
        rows = torch.cat([splines.flatten(1) * _factors(ctx.grid)[0], base], 1)
        out = x.new_empty(x.shape[0], rows.shape[0], x.shape[2])
        for image, part, values, _ in _tiles(x, ctx.grid, slopes=False):
            values[-x.shape[1] :] = BASES[name](x[image, :, part])
            torch.mm(rows, values, out=out[image, :, part])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, splines, base = ctx.saved_tensors
        channels = x.shape[1]
        factor, slope_factor = _factors(ctx.grid)
        columns = torch.cat([splines.flatten(1) * slope_factor, base], 1).mT
        to_x, to_weights = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:3])
        grad_x = torch.empty_like(x)
        grad_rows = columns.new_zeros(columns.mT.shape)
        with torch.autocast(x.device.type, enabled=False):
            for image, part, values, slopes in _tiles(x, ctx.grid, slopes=to_x):
                numbers, upstream = x[image, :, part], grad[image, :, part]
                if to_weights:
                    values[-channels:] = BASES[ctx.name](numbers)
                    grad_rows.addmm_(upstream, values.mT)
                if to_x:  # the memory of the values is free again
                    torch.mm(columns, upstream, out=values)
                    places = torch.sum(values[:-channels].view_as(slopes).mul_(slopes), 1)
                    grad_x[image, :, part] = places.addcmul_(values[-channels:], SLOPES[ctx.name](numbers))
        grad_splines = (grad_rows[:, :-channels] * factor).view_as(splines)
        weights = (grad_splines, grad_rows[:, -channels:]) if to_weights else (None, None)
        return grad_x if to_x else None, *weights, None, None, None, None


class _KANLayer(nn.Module):
    """The weights that both layers have: one function for every pair of an output and an input.

    They have two or three axes, as a module of `channels_last` takes four for those of a map.
    """

    def __init__(
        self, inputs: int, outputs: int, grid_size: int, spline_order: int, grid_range: float, base: str, scale: bool
    ) -> None:
        super().__init__()
        _check_grid(grid_size, spline_order, grid_range)
        check_choice("base", base, BASES)
        check_flag("scale", scale)
        self.grid: Grid = (grid_size, spline_order, float(grid_range))
        self.base = base
        self.base_weight = nn.Parameter(torch.empty(outputs, inputs))
        self.spline_weight = nn.Parameter(torch.empty(outputs, inputs, grid_size + spline_order))
        self.spline_scale = nn.Parameter(torch.empty(outputs, inputs)) if scale else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew: base and scale as torch's own layers do, and splines near 0."""
        for weight in (self.base_weight, self.spline_scale):
            if weight is not None:
                nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
        bound = 0.05 / self.grid[0]
        nn.init.uniform_(self.spline_weight, -bound, bound)

    def sums(self, x: Tensor) -> Tensor:
        """Return the output (N, O, P) for inputs (N, C, P)."""
        weight = upcast(self.spline_weight)
        if self.spline_scale is not None:
            weight = weight * upcast(self.spline_scale).unsqueeze(-1)
        dtype = torch.promote_types(x.dtype, weight.dtype)
        weights = (weight.to(dtype), self.base_weight.to(dtype))
        return cast(Tensor, cast(Any, _FunctionSum).apply(x.to(dtype), *weights, self.base, *self.grid))


class KANLinear(_KANLayer):
    r"""Sum a learned function of every feature, in the place of a linear layer.

    .. math:: y_o = \sum_i w_{o i} b(x_i) + s_{o i} \sum_m v_{o i m} B_m(x_i)

    with the B-splines of `spline_bases`. Outside of their range, the first part alone is left. It runs in float32 at least,
    under autocast too: half precision cannot tell the inputs within an interval apart.

    Args:
        in_features: length of x.
        out_features: length of y.
        grid_size: G, intervals of the splines.
        spline_order: k, their degree, 2 to 5.
        grid_range: r; the intervals lie between -r and r, and k further ones on both sides.
        base: b, "silu" or "gelu".
        scale: learn the factors s; False: 1.

    Shape:
        x: (..., in_features); output: (..., out_features).

    Raises:
        ValueError: an argument out of range, or an input of another length.

    References:
        Liu et al., arXiv 2404.19756, in the form of the program efficient-kan, without bias. Differs from it in its start,
        where the coefficients are drawn rather than fitted to drawn values, and in knots that stay: its `update_grid` changes
        the function, as it writes back the splines with s and multiplies them with s again.

    Example:
        >>> layer = KANLinear(2, 1, grid_size=2)
        >>> for weight, value in ((layer.base_weight, 0.0), (layer.spline_weight, 1.0), (layer.spline_scale, 3.0)):
        ...     _ = nn.init.constant_(weight, value)
        >>> layer(torch.tensor([[0.3, -0.5]])).item()  # the splines add up to 1
        6.0
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        grid_size: int = 5,
        spline_order: int = 3,
        grid_range: float = 1.0,
        base: str = "silu",
        scale: bool = True,
    ) -> None:
        check_whole("in_features", in_features, 1, most=WIDEST)
        check_whole("out_features", out_features, 1, most=WIDEST)
        super().__init__(in_features, out_features, grid_size, spline_order, grid_range, base, scale)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sums."""
        if x.shape[-1] != self.base_weight.shape[1]:
            raise ValueError(
                f"x must have in_features={self.base_weight.shape[1]} as its last size, got shape {tuple(x.shape)}"
            )
        with torch.autocast(x.device.type, enabled=False):
            columns = upcast(x).reshape(1, -1, x.shape[-1]).mT
            return self.sums(columns)[0].mT.reshape(*x.shape[:-1], len(self.base_weight))


class KANConv2d(_KANLayer):
    r"""Sum a learned function of every number under the kernel, in the place of a convolution.

    .. math:: y_{o, i} = \sum_{c, u} w_{o c u} b(x_{c, i + u}) + s_{o c u} \sum_m v_{o c u m} B_m(x_{c, i + u})

    It runs in float32 at least. The splines are evaluated tile by tile, and again in the backward pass, so that besides the
    input (its patches, for kernels larger than 1) nothing of its size is kept.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel_size: of the square kernel.
        stride: of the kernel.
        padding: zeros on every side.
        dilation: of the kernel.
        grid_size: see `KANLinear`, as are the next four.
        spline_order: likewise.
        grid_range: likewise.
        base: likewise.
        scale: likewise.
        pad: what the padding stands for. "input": the functions see zeros, whose splines are not 0; "functions": a padded cell
            adds nothing.

    Shape:
        x: (N, in_channels, H, W); output: (N, out_channels, H', W') as of a convolution.

    Raises:
        ValueError: an argument out of range, or a map of other channels or too small.

    References:
        Both definitions that go by this name. Convolutional KANs, arXiv 2406.13155: `pad="input"`; its program always gives
        float32. torch-conv-kan: `pad="functions", base="gelu", scale=False`, followed there by an instance norm and a PReLU,
        which are modules of their own here. For kernels of size 1 both are the same.

    Example:
        >>> KANConv2d(3, 8, kernel_size=3, padding=1)(torch.randn(2, 3, 5, 7)).shape
        torch.Size([2, 8, 5, 7])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        grid_size: int = 5,
        spline_order: int = 3,
        grid_range: float = 1.0,
        base: str = "silu",
        scale: bool = True,
        pad: str = "input",
    ) -> None:
        check_whole("in_channels", in_channels, 1, most=WIDEST)
        check_whole("out_channels", out_channels, 1, most=WIDEST)
        for name, value in (("kernel_size", kernel_size), ("stride", stride), ("dilation", dilation)):
            check_whole(name, value, 1, most=99)
        check_whole("padding", padding, 0, most=99)
        check_choice("pad", pad, PAD_CHOICES)
        inputs = in_channels * kernel_size**2
        super().__init__(inputs, out_channels, grid_size, spline_order, grid_range, base, scale)
        self.in_channels = in_channels
        self.kernel_size, self.stride, self.padding, self.dilation = kernel_size, stride, padding, dilation
        # Padded cells that shall add nothing lie left of all splines, where the base function is 0, too.
        self.pad_value = 0.0 if pad == "input" else -1e4 * max(1.0, grid_range)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sums."""
        check_map("x", x, self.in_channels)
        reach = self.dilation * (self.kernel_size - 1) + 1
        height, width = ((size + 2 * self.padding - reach) // self.stride + 1 for size in x.shape[-2:])
        if min(height, width) < 1:
            raise ValueError(
                f"x must be {reach - 2 * self.padding} pixels high and wide at least, for kernel_size={self.kernel_size}, "
                f"padding={self.padding} and dilation={self.dilation}, got shape {tuple(x.shape)}"
            )
        with torch.autocast(x.device.type, enabled=False):
            feat = upcast(x)
            out = self.sums(self._patches(feat))
            return out.view(*out.shape[:2], height, width)

    def _patches(self, x: Tensor) -> Tensor:
        """Return the numbers under the kernel, (N, C k k, positions)."""
        if self.kernel_size == self.stride == 1 and self.padding == 0:
            return x.flatten(2)
        padded = F.pad(x, [self.padding] * 4, value=self.pad_value)
        return F.unfold(padded, self.kernel_size, dilation=self.dilation, stride=self.stride)
