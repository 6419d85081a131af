"""Table of what can be tapped in a network: `freqkd taps CONFIG`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from freqkd.apis.arguments import KeyValueAction
from freqkd.models.tap_shapes import MapShape
from freqkd.pairs.families import family_table
from freqkd.pairs.networks import Network, image_size, is_leaf, one_image, read_network, run_once
from freqkd.utils.errors import EPILOG
from freqkd.utils.program import program

MOST_MAPS = 8  # in a row; beyond them, "..."


def tap_rows(
    network: Network, calls: Mapping[str, Sequence[Sequence[MapShape]]], every: bool = False
) -> list[list[str]]:
    """Return a row for each module that can be tapped: path, calls, shapes of its maps, their strides, remarks.

    Args:
        network: the network that was run.
        calls: what `run_once` returned.
        every: whether all modules are listed, down to the leaves; else the outer ones that give maps.
    """
    marks = dict.fromkeys(network.features, "feature maps")
    marks.update(dict.fromkeys(network.features[:1], "feature maps, the usual tap"))
    if network.scores:
        marks[network.scores] = "class scores" + (f", {network.family.adapter}" if network.family.adapter else "")
    modules = dict(network.model.named_modules())
    rows = []
    for path in modules:  # in the order of the network, not of the calls
        shapes = [shape for call in calls.get(path, ()) for shape in call]
        near = _is_near(path, modules[path]) and any(shape.stride is not None for shape in shapes)
        if not shapes or not (path in marks or every or near):
            continue
        shown = [" ".join(map(_size, shapes[:MOST_MAPS])), " ".join(_stride(shape) for shape in shapes[:MOST_MAPS])]
        if len(shapes) > MOST_MAPS:
            shown = [f"{text} ..." for text in shown]
        rows.append(
            [path, str(len(calls[path])), *shown, marks.get(path, "leaf" if every and is_leaf(modules[path]) else "")]
        )
    return rows


def _is_near(path: str, module: nn.Module) -> bool:
    """Whether a module is listed without `--all`: one near the top, in backbone and neck one with parts."""
    dots, root = path.count("."), path.split(".")[0]
    return dots == 0 or (dots == 1 and not is_leaf(module)) if root in ("backbone", "neck") else dots <= 2


def _size(shape: MapShape) -> str:
    """Return the sizes of a tensor without its batch: 256x32x32.

    >>> _size(MapShape((1, 256, 32, 32), 8)), _size(MapShape((), None))
    ('256x32x32', 'number')
    """
    if not shape.shape:
        return "number"
    sizes = shape.shape[1:] if shape.stride is not None else shape.shape
    return "x".join(map(str, sizes))


def _stride(shape: MapShape) -> str:
    return "-" if shape.stride is None else str(shape.stride)


def align_columns(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as lines, each column as wide as its widest entry.

    >>> print(align_columns([["path", "calls"], ["neck.convs", "1"]]))
    path        calls
    neck.convs  1
    """
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in rows)


def taps_table(name: str, options: Mapping[str, Any] | None = None, every: bool = False) -> str:
    """Return the table of what can be tapped in the network of a config.

    Args:
        name: a config file, `mmdet::NAME` or `mmseg::NAME`.
        options: changes to the config.
        every: whether all modules are listed, down to the leaves.

    Raises:
        ValueError: the config cannot be read, or its network does not run.
    """
    network = read_network(name, "network", options)
    inputs, samples = one_image(network, image_size(network.config))
    rows = tap_rows(network, run_once(network, inputs, samples), every)
    kind, size = type(network.model).__name__, tuple(inputs.shape[1:])
    head = f"{kind} ({network.family.name}), one image of {size}, while it computes its losses"
    more = "" if every else "\n--all lists every module down to the leaves."
    return (
        f"{head}:\n{align_columns([['path', 'calls', 'maps (channels x height x width)', 'strides', ''], *rows])}{more}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of a config's network."""
    parser = argparse.ArgumentParser(
        prog=program("taps"),
        description="List what can be tapped in a network: path, how often it runs, shapes, strides.",
        epilog=EPILOG,
    )
    parser.add_argument("config", nargs="?", help="config file, or mmdet::NAME / mmseg::NAME")
    parser.add_argument("--families", action="store_true", help="print the table of known networks, in Markdown")
    parser.add_argument("--all", action="store_true", help="list every module, down to the leaves")
    parser.add_argument("--cfg-options", nargs="+", action=KeyValueAction, help="changes to the config: key=value")
    options = parser.parse_args(arguments)
    if options.families:
        print(family_table())
        return
    if options.config is None:
        parser.error("config must be named, or --families given")
    print(taps_table(options.config, options.cfg_options, options.all))
