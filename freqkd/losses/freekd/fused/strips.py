"""Layout of the maps of a pyramid on one canvas, on which one Haar transform serves them all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor


@dataclass(frozen=True)
class Piece:
    """Rows of blocks of one map, of a single one perhaps a part, and the column of the canvas at which they begin."""

    index: int
    first: int
    last: int
    left: int
    right: int
    begin: int

    @property
    def end(self) -> int:
        """The column of the canvas at which it ends."""
        return self.begin + (self.last - self.first) * (self.right - self.left)


class Strips:
    r"""Where the maps of a pyramid lie on a canvas that is as tall as a Haar block, 2^depth.

    Every map is padded to whole blocks and cut into rows of blocks; these strips stand one beside the other, map after
    map. Blocks stay whole, so all levels of the transform work on the canvas as they would on a single map.

    Args:
        sizes: height and width of every map.
        depth: levels of the transform.

    Attributes:
        rows: rows of blocks of every map.
        widths: width of every map, padded to whole blocks.
        lengths: columns that every map takes.
        begins: the column of the canvas at which every map begins, and where the last one ends.

    Example:
        >>> strips = Strips([(5, 3), (2, 2)], depth=1)  # 3 strips of 4 columns, 1 strip of 2
        >>> strips.rows, strips.widths, strips.begins
        ((3, 1), (4, 2), (0, 12, 14))
        >>> strips.tiles(columns=10)[1]  # the third strip, and the other map
        [Piece(index=0, first=2, last=3, left=0, right=4, begin=0), Piece(index=1, first=0, last=1, left=0, right=2, begin=4)]
    """

    def __init__(self, sizes: Sequence[tuple[int, int]], depth: int) -> None:
        self.sizes = tuple(sizes)
        self.depth = depth
        self.block: int = 2**depth
        self.rows = tuple(-(-height // self.block) for height, _ in self.sizes)
        self.widths = tuple(-(-width // self.block) * self.block for _, width in self.sizes)
        self.lengths: list[int] = [rows * width for rows, width in zip(self.rows, self.widths)]
        self.begins: tuple[int, ...] = tuple(accumulate(self.lengths, initial=0))

    @classmethod
    def of(cls, maps: Sequence[Tensor], depth: int) -> Strips:
        """Return the strips of maps (N, C, H, W)."""
        return cls([(x.shape[-2], x.shape[-1]) for x in maps], depth)

    def halved(self) -> Strips:
        """Return the strips of the low bands: as many, half as tall and half as long."""
        return Strips([(-(-height // 2), -(-width // 2)) for height, width in self.sizes], self.depth - 1)

    def whole(self) -> list[Piece]:
        """Return every map in one piece."""
        return [
            Piece(index, 0, rows, 0, width, begin)
            for index, (rows, width, begin) in enumerate(zip(self.rows, self.widths, self.begins))
        ]

    def tiles(self, columns: int) -> list[list[Piece]]:
        """Cut the canvas into tiles of so many columns, a block at least; the last one may be shorter.

        The pieces of a tile begin at its columns, not the canvas's. Only strips that are longer than a tile are cut.
        """
        room = columns = max(columns // self.block, 1) * self.block
        tiles: list[list[Piece]] = [[]]
        for index, (rows, width) in enumerate(zip(self.rows, self.widths)):
            first, left = 0, 0
            while first < rows:
                if not room or (not left and room < width <= columns):
                    tiles.append([])
                    room = columns
                if left or room < width:
                    last, right = first + 1, min(width, left + room)
                else:
                    last, right = min(rows, first + room // width), width
                piece = Piece(index, first, last, left, right, columns - room)
                tiles[-1].append(piece)
                room = columns - piece.end
                first, left = (first, right) if right < width else (last, 0)
        return tiles

    def stretch(self, canvas: Tensor, piece: Piece) -> Tensor:
        """Return the columns of a piece, (..., block, columns)."""
        return canvas.narrow(-1, piece.begin, piece.end - piece.begin)

    def place(self, canvas: Tensor, piece: Piece) -> Tensor:
        """Return a piece of a canvas (..., block, columns) as (..., rows, block, width), padding included."""
        shape = (piece.last - piece.first, piece.right - piece.left)
        return torch.unflatten(self.stretch(canvas, piece), -1, shape).transpose(-3, -2)

    def match(self, canvas: Tensor, piece: Piece, *maps: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Yield the piece of a canvas and of maps, whole rows of blocks, then the one that is cut short."""
        height, width = self.sizes[piece.index]
        right = min(piece.right, width)
        place = self.place(canvas, piece)
        if right < piece.right:
            place = place[..., : right - piece.left]
        whole = min(piece.last, height // self.block) - piece.first
        top = piece.first * self.block
        columns = [x if right - piece.left == width else x[..., piece.left : right] for x in maps]
        if whole:
            rows = whole * self.block
            parts = (x if rows == height else x.narrow(-2, top, rows) for x in columns)
            yield (place.narrow(-3, 0, whole), *(torch.unflatten(part, -2, (whole, self.block)) for part in parts))
        if whole < piece.last - piece.first:
            top += whole * self.block
            yield (place[..., whole, : height - top, :], *(x[..., top:height, :] for x in columns))

    def clear_padding(self, canvas: Tensor, piece: Piece) -> None:
        """Set to zero what a piece of a canvas has beyond its map."""
        height, width = self.sizes[piece.index]
        if piece.right > width:
            self.place(canvas, piece)[..., width - piece.left :].zero_()
        if piece.last * self.block > height:
            self.place(canvas, piece)[..., -1, height - piece.last * self.block :, :].zero_()
