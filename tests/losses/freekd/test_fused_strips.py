"""Layout of maps on one canvas: every position has one place, whatever the tiles."""

from __future__ import annotations

import pytest
import torch

from freqkd.losses.freekd.fused.strips import Strips

SIZES = [(13, 21), (8, 16), (5, 3), (1, 1)]


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("columns", [1, 8, 24, 50, 10**6])
def test_tiles_hold_every_position_once_and_zeros_beyond(depth: int, columns: int) -> None:
    maps = [torch.rand(2, 3, *size) + 1 for size in SIZES]
    strips = Strips.of(maps, depth)
    found = [torch.zeros_like(x) for x in maps]
    ends = []
    for pieces in strips.tiles(columns):
        ends.append(pieces[-1].end)
        tile = torch.full((2, 3, 2**depth, ends[-1]), torch.nan)
        for piece in pieces:
            strips.clear_padding(tile, piece)
            for place, part in strips.match(tile, piece, maps[piece.index]):
                place.copy_(part)
            for place, part in strips.match(tile, piece, found[piece.index]):
                part.add_(place)
        positions = (tile != 0).sum().item()
        assert positions == sum(
            part.numel() for piece in pieces for _, part in strips.match(tile, piece, maps[piece.index])
        )
    for x, again in zip(maps, found):
        torch.testing.assert_close(again, x)
    assert sum(ends) == strips.begins[-1]
    widest = max(columns // 2**depth, 1) * 2**depth
    assert max(ends) <= widest


def test_strips_that_fit_are_not_cut() -> None:
    for pieces in Strips(SIZES, 3).tiles(30):
        assert all((piece.left, piece.right) == (0, Strips(SIZES, 3).widths[piece.index]) for piece in pieces)


def test_halved_strips_hold_the_low_bands() -> None:
    halved = Strips(SIZES, 3).halved()
    assert halved.sizes == ((7, 11), (4, 8), (3, 2), (1, 1))
    assert [2 * begin for begin in halved.begins] == list(Strips(SIZES, 3).begins)
