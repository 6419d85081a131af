"""Shapes and strides of what modules return for one image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from freqkd.models.rehearsal import rehearsing
from freqkd.taps import flatten_maps
from freqkd.teacher.teacher import HEADS, run_to


class MapShape(NamedTuple):
    """The shape of a tensor, and how many pixels of the image one step in it is; None where it is no map (N, C, H, W)."""

    shape: tuple[int, ...]
    stride: int | None


def map_shape(tensor: Tensor, images: Sequence[int]) -> MapShape:
    """Return the shape of a tensor, and its stride in images of a shape (N, C, H, W).

    The stride is the power of two by which halving with rounding up gives the map's height, else the ratio of the heights,
    rounded. What holds one map for each proposal has none.

    >>> import torch
    >>> map_shape(torch.zeros(1, 8, 4, 6), (1, 3, 64, 96))
    MapShape(shape=(1, 8, 4, 6), stride=16)
    >>> map_shape(torch.zeros(1, 8, 7, 7), (1, 3, 800, 800)).stride
    128
    >>> map_shape(torch.zeros(512, 8, 7, 7), (1, 3, 64, 96)).stride is None
    True
    """
    shape = tuple(tensor.shape)
    if len(shape) != 4 or 0 in shape or shape[0] != images[0]:
        return MapShape(shape, None)
    ratio = images[2] / shape[2]
    halved = 2 ** math.ceil(math.log2(max(ratio, 1)))
    exact = shape[2] > 1 and math.ceil(images[2] / halved) == shape[2]
    return MapShape(shape, halved if exact else max(1, round(ratio)))


def call_shapes(network: nn.Module, inputs: Tensor, samples: Any = None) -> dict[str, list[list[MapShape]]]:
    """Run a network once and return, for each module that ran, what each of its calls returned.

    Args:
        network: a detector or segmenter of mmdet or mmseg; it is left as it was.
        inputs: images (N, C, H, W), normalised.
        samples: their samples, for the modules that run while the network computes its losses; None: backbone, neck and
            the heads that take their maps run, as far as the heads can without samples.
    """
    found: dict[str, list[list[MapShape]]] = {}

    def recorder(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def record(module: nn.Module, arguments: Any, output: Any) -> None:
            found.setdefault(path, []).append([map_shape(x, inputs.shape) for x in flatten_maps(output)])

        return record

    handles = [module.register_forward_hook(recorder(path)) for path, module in network.named_modules() if path]
    try:
        with rehearsing(network):
            if samples is None:
                heads = [name for name in HEADS if isinstance(getattr(network, name, None), nn.Module)]
                run_to(network, inputs, None, heads or ["neck"])
            else:
                network(inputs, samples, mode="loss")
    finally:
        for handle in handles:
            handle.remove()
    return found


def tap_shapes(network: nn.Module, inputs: Tensor, samples: Any = None) -> dict[str, list[MapShape]]:
    """Return the shapes and strides of everything that a tap of each module would give; see `call_shapes`.

    Args:
        network: a detector or segmenter of mmdet or mmseg; it is left as it was.
        inputs: images (N, C, H, W), normalised.
        samples: their samples; None: the heads run without.
    """
    calls = call_shapes(network, inputs, samples)
    return {path: [one for call in shapes for one in call] for path, shapes in calls.items()}
