"""The relation of channels within windows of positions."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from freqkd.losses import FreeKDLoss, freekd_loss, local_relation_weights, relation_weights
from freqkd.losses.freekd.wavelets import wavedec2


def by_hand(feats: list[Tensor], deepers: list[Tensor | None], window: int, tau: float) -> Tensor:
    """The weights, window by window and channel by channel, in plain loops."""
    batch, channels, height, width = feats[0].shape
    found = torch.zeros(feats[0].shape, dtype=torch.float64)
    size = (height, width)
    keys = [feat.double() for feat in feats]
    queries = [
        key if deeper is None else torch.nn.functional.interpolate(deeper.double(), size, mode="bilinear")
        for key, deeper in zip(keys, deepers)
    ]
    for n in range(batch):
        for top in range(0, height, window):
            for left in range(0, width, window):
                down, along = slice(top, top + window), slice(left, left + window)
                omega = torch.ones(channels, dtype=torch.float64)
                for key, query in zip(keys, queries):
                    rows = torch.zeros(channels, channels, dtype=torch.float64)
                    for i in range(channels):
                        for j in range(channels):
                            a, b = query[n, i, down, along].flatten(), key[n, j, down, along].flatten()
                            a, b = a - a.mean(), b - b.mean()
                            length = (a.norm() * b.norm()).item()
                            rows[i, j] = (a @ b) / length if length > 1e-9 else 0.0
                    omega = omega * (rows / tau).softmax(1).mean(0) * channels
                found[n, :, down, along] = (omega / omega.mean())[:, None, None]
    return found


@pytest.mark.parametrize(("size", "deeper", "window"), [((8, 8), (4, 4), 4), ((7, 10), (4, 5), 4), ((3, 5), None, 8)])
def test_it_is_what_plain_loops_give(size: tuple[int, int], deeper: tuple[int, int] | None, window: int) -> None:
    student, teacher = torch.randn(2, 2, 4, *size)
    below = [None, None] if deeper is None else list(torch.randn(2, 2, 4, *deeper))
    found = local_relation_weights(student, teacher, *below, window=window, temperature=0.5)
    torch.testing.assert_close(found.double(), by_hand([student, teacher], below, window, 0.5), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.mean(1), torch.ones(2, *size))


def test_one_window_for_the_whole_map_is_the_attention() -> None:
    student, teacher, *deeper = (torch.randn(2, 5, *size) for size in ((6, 9), (6, 9), (3, 5), (3, 5)))
    local = local_relation_weights(student, teacher, *deeper, window=9)
    torch.testing.assert_close(local, relation_weights(student, teacher, *deeper)[:, :, None, None].expand_as(local))


def test_what_lies_in_another_window_does_not_matter_nor_does_scale_or_shift() -> None:
    student, teacher, *deeper = torch.randn(4, 1, 4, 8, 8)
    before = local_relation_weights(student, teacher, *deeper, window=4)
    moved = teacher.clone()
    moved[:, :, 4:] = torch.randn(1, 4, 4, 8)
    after = local_relation_weights(student, moved, *deeper, window=4)
    assert torch.equal(before[:, :, :4], after[:, :, :4])
    assert (before - after)[:, :, 4:].abs().max() > 0.01
    scaled = local_relation_weights(student, 5 * teacher + 3, *deeper, window=4)
    torch.testing.assert_close(scaled, before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("maps", [torch.full((2, 3, 5, 6), 7.0), torch.randn(1, 3, 1, 1), torch.zeros(1, 3, 2, 2)])
def test_constant_maps_and_one_position_have_weights_of_one(maps: Tensor) -> None:
    torch.testing.assert_close(local_relation_weights(maps, maps, window=4), torch.ones_like(maps), rtol=0, atol=1e-3)
    torch.testing.assert_close(
        local_relation_weights(torch.randn(1, 3, 4, 4), torch.ones(1, 3, 4, 4), window=1), torch.ones(1, 3, 4, 4)
    )


def test_the_loss_takes_the_weights_to_the_bands_by_their_blocks() -> None:
    student, teacher = torch.randn(2, 2, 3, 8, 16, dtype=torch.float64)
    omega = torch.rand(2, 3, 8, 16, dtype=torch.float64)
    value = freekd_loss(student, teacher, channel_weights=omega, depth=1)
    low, (detail,) = wavedec2(teacher - student, level=1)
    blocks = omega.unflatten(3, (8, 2)).unflatten(2, (4, 2)).mean((3, 5))
    expected = sum((blocks * band).abs().mean() for band in (low, *detail.unbind(2)))
    torch.testing.assert_close(value, expected)
    same = torch.rand(2, 3, dtype=torch.float64)
    torch.testing.assert_close(
        freekd_loss(student, teacher, channel_weights=same[:, :, None, None].expand(2, 3, 8, 16)),
        freekd_loss(student, teacher, channel_weights=same),
    )


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("preset", ["paper", "details"])
def test_a_pyramid_uses_each_levels_next_deeper_one(preset: str, fused: bool) -> None:
    """The fused path has no form for it, and steps back."""
    pyramids = [[torch.randn(2, 4, 9, 12), torch.randn(2, 4, 5, 6)] for _ in range(2)]
    students, teachers = pyramids
    students[0].requires_grad_(), teachers[0].requires_grad_()
    loss = FreeKDLoss(4, 2, preset=preset, relation="local", window=4, fused=fused)
    value = loss(students, teachers)
    omegas = [
        local_relation_weights(students[0], teachers[0], students[1], teachers[1], window=4),
        local_relation_weights(students[1], teachers[1], window=4),
    ]
    prompts = list(loss.prompts) or [None, None]
    options = dict(loss.options, fused=False)
    expected = [freekd_loss(*level, **options) for level in zip(students, teachers, prompts, omegas)]
    torch.testing.assert_close(value, sum(expected))
    value.backward()
    assert students[0].grad.abs().sum() > 0
    assert teachers[0].grad is None
    assert not omegas[0].requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    student, teacher = (1e4 * torch.randn(2, 1, 4, 8, 8).clamp(-4, 4)).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = local_relation_weights(student, teacher, window=4)
    torch.testing.assert_close(found, local_relation_weights(student.float(), teacher.float(), window=4))


def test_wrong_arguments_are_refused() -> None:
    feat = torch.randn(1, 3, 4, 4)
    for call, words in (
        (lambda: local_relation_weights(feat, feat[:, :2]), "student and teacher feature must have the same shape"),
        (lambda: local_relation_weights(feat, feat, window=0), "window must be at least 1, got 0"),
        (lambda: local_relation_weights(feat, feat, feat[:, :, 0]), "student_deeper must be a map (N, C, H, W)"),
        (
            lambda: local_relation_weights(feat, feat, feat.expand(2, 3, 4, 4)),
            "student_deeper must have the batch size",
        ),
        (
            lambda: freekd_loss(feat, feat, channel_weights=feat[..., :2], depth=1),
            "channel_weights must be (N or 1, C, H, W) = (1, 3, 4, 4)",
        ),
        (
            lambda: freekd_loss(feat, feat, channel_weights=feat[0, 0], depth=1),
            "channel_weights must be (N or 1, C) = (1, 3)",
        ),
        (
            lambda: freekd_loss(feat, feat, channel_weights=feat, depth=1, wavelet="db2"),
            "channel_weights of every position need the Haar",
        ),
        (lambda: FreeKDLoss(3, 1, relation="local", wavelet="db2"), "relation='local' needs the Haar wavelet"),
        (lambda: FreeKDLoss(3, 1, relation="locale"), "did you mean 'local'?"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            call()


@pytest.mark.parametrize("size", [(8, 16), (7, 11), (2, 3), (1, 1)])
def test_low_band_and_details_are_the_mean_squared_error(size: tuple[int, int]) -> None:
    """The weighting "low" is what "details" leaves out."""
    student, teacher = torch.randn(2, 2, 3, *size, dtype=torch.float64)
    low, details, flat = (
        freekd_loss(student, teacher, norm="l2", band_weights=bands) for bands in ("low", "details", "flat")
    )
    torch.testing.assert_close(low + details, (student - teacher).square().mean())
    torch.testing.assert_close(flat, low + details)
    constant = torch.ones(2, 3, *size, dtype=torch.float64)
    assert freekd_loss(0 * constant, 2 * constant, norm="l2", band_weights="low").item() == pytest.approx(4)
