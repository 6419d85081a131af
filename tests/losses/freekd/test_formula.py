"""FreeKD's formula: norms, ways to combine masks, band weights, weight maps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from freqkd.losses.freekd.loss import COMBINE, NORMS, FreeKDLoss, freekd_loss
from freqkd.losses.freekd.prompts import FrequencyPrompt
from freqkd.losses.freekd.wavelets import wavedec2
from freqkd.losses.mse import mse_loss

SIZES = [(16, 24), (13, 21), (7, 9), (2, 3), (1, 1)]
TEACHER = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])  # bands 5, -2, -1, 0
STUDENT = torch.zeros_like(TEACHER)


def _maps(size: tuple[int, int], last: bool = False) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    order = torch.channels_last if last else torch.contiguous_format
    student, teacher = torch.randn(2, 2, 3, *size, dtype=torch.float64).unbind(0)
    return student.contiguous(memory_format=order).requires_grad_(), teacher.contiguous(memory_format=order)


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        ("l1", 5 + 2 + 1),
        ("l2", 25 + 4 + 1),
        ("huber", 1.5 * (5 - 0.75) + 1.5 * (2 - 0.75) + 0.5),
        ("log", math.log(6) + math.log(3) + math.log(2)),
    ],
)
def test_norms_by_hand(norm: str, expected: float) -> None:
    for fused in (True, False):
        loss = freekd_loss(STUDENT, TEACHER, norm=norm, knee=1.5, depth=1, fused=fused)
        assert loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("combine", "expected"),
    [("mean", 0.5), ("max", 0.8), ("rms", math.sqrt(0.34)), ("contrast", 0.6), ("none", 1.0)],
)
def test_ways_to_combine_masks_by_hand(combine: str, expected: float) -> None:
    """Masks stand inside the norm: squared with "l2"."""
    mask = torch.tensor([0.2, 0.8]).view(1, 2, 1, 1)
    for fused in (True, False):
        options = dict(combine=combine, depth=1, fused=fused)
        assert freekd_loss(STUDENT, TEACHER, [mask] * 4, **options).item() == pytest.approx(8 * expected, rel=1e-6)
        squared = freekd_loss(STUDENT, TEACHER, [mask] * 2, norm="l2", **options).item()
        assert squared == pytest.approx(30 * expected**2, rel=1e-6)


@pytest.mark.parametrize(
    ("band_weights", "expected"),
    [
        ("mean", 8),
        ("orientation-mean", 1),
        ("flat", 8 / 4),
        ("details", 3 / 4),
        ([2, 1, 10, 100], 10 + 2 + 10),
        ((2, 3), 10 + 9),
    ],
)
def test_band_weights_by_hand(band_weights: object, expected: float) -> None:
    for fused in (True, False):
        loss = freekd_loss(STUDENT, TEACHER, band_weights=band_weights, depth=1, fused=fused)
        assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_a_weight_map_is_taken_to_the_bands_by_block_means() -> None:
    """Rows of 3x3 positions: the last block has fewer. In image space, a map is first averaged to the map's size."""
    teacher = torch.ones(1, 1, 3, 3)
    weight_map = torch.tensor([[1.0, 3.0, 5.0], [1.0, 3.0, 7.0], [2.0, 4.0, 9.0]]).view(1, 1, 3, 3)
    means = torch.tensor([[2.0, 6.0], [3.0, 9.0]])
    low = wavedec2(teacher, level=1).low[0, 0]
    options = dict(depth=1, band_weights=[1, 0, 0, 0])
    loss = freekd_loss(torch.zeros_like(teacher), teacher, weight_map=weight_map, **options)
    torch.testing.assert_close(loss, (means * low).mean())
    image = weight_map.repeat_interleave(4, -1).repeat_interleave(4, -2)
    torch.testing.assert_close(freekd_loss(torch.zeros_like(teacher), teacher, weight_map=image, **options), loss)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("fused", [True, False])
def test_all_squared_coefficients_are_the_mean_squared_error(size, last: bool, fused: bool) -> None:
    student, teacher = _maps(size, last)
    flat = freekd_loss(student, teacher, norm="l2", band_weights="flat", combine="none", fused=fused)
    torch.testing.assert_close(flat, mse_loss(student, teacher))
    details = freekd_loss(student, teacher, norm="l2", band_weights="details", fused=fused)
    block = 8
    low = torch.zeros((), dtype=torch.float64)
    for top in range(0, size[0], block):
        for left in range(0, size[1], block):
            part = (teacher - student)[..., top : top + block, left : left + block]
            low = low + (part.mean((-2, -1)) ** 2 * part[0, 0].numel()).sum()
    torch.testing.assert_close(details + low / student.numel(), flat)
    (gradient,) = torch.autograd.grad(flat, student, retain_graph=True)
    torch.testing.assert_close(gradient, 2 * (student - teacher).detach() / student.numel())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("norm", sorted(NORMS))
@pytest.mark.parametrize("fused", [True, False])
def test_a_constant_has_no_details(size, norm: str, fused: bool) -> None:
    student, _ = _maps(size)
    shifted = student.detach() + 3.5
    assert freekd_loss(student, shifted, norm=norm, band_weights="details", fused=fused).item() == pytest.approx(
        0, abs=1e-14
    )
    if max(size) > 1:
        assert freekd_loss(student, 2 * shifted, norm=norm, band_weights="details", fused=fused) > 1e-3


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("last", [True, False])
def test_whitened_details_by_hand(size, norm: str, last: bool) -> None:
    """Every detail band has the weight of its numbers, over the teacher's mean square in it, but for bands near 0."""
    student, teacher = _maps(size, last)
    teacher = teacher.cumsum(-1)
    depth = max(level for level in (1, 2, 3) if 2 ** (level - 1) <= max(size))
    bands = [band for one in wavedec2(teacher, level=depth, boundary="valid").details for band in one.unbind(2)]
    errors = [
        band for one in wavedec2(teacher - student, level=depth, boundary="valid").details for band in one.unbind(2)
    ]
    energy = sum(band.square().sum() for band in bands) / sum(band.numel() for band in bands)
    expected = torch.zeros((), dtype=torch.float64)
    for band, error in zip(bands, errors):
        gain = energy / max(band.square().mean(), energy / 100) if energy > 0 else 1.0
        expected = expected + gain * (error.abs() if norm == "l1" else error.square()).sum() / student.numel()
    for fused in (True, False):
        found = freekd_loss(student, teacher, norm=norm, band_weights="whitened", depth=depth, fused=fused)
        torch.testing.assert_close(found, expected)
        gradients = [torch.autograd.grad(loss, student, retain_graph=True)[0] for loss in (found, expected)]
        torch.testing.assert_close(*gradients)


def test_whitening_keeps_the_size_of_the_loss_and_takes_a_constant_teacher() -> None:
    """An error that is a share of the teacher costs as much as in plain details; a constant teacher has gains of 1."""
    torch.manual_seed(0)
    teacher = torch.randn(2, 3, 16, 24, dtype=torch.float64).cumsum(-1)
    for share in (0.1, 1e4):
        plain, whitened = (FreeKDLoss(preset=preset) for preset in ("details", "whitened"))
        torch.testing.assert_close(whitened(share * teacher, teacher), plain(share * teacher, teacher))
    student = torch.randn(2, 3, 16, 24, requires_grad=True)
    for constant in (0.0, 3.5):
        flat = torch.full((2, 3, 16, 24), constant)
        loss = FreeKDLoss(preset="whitened")(student, flat)
        torch.testing.assert_close(loss, FreeKDLoss(preset="details")(student, flat))


@pytest.mark.parametrize("size", [(16, 24), (8, 40)])
def test_whole_blocks_have_one_boundary(size) -> None:
    x = torch.randn(1, 2, *size, dtype=torch.float64)
    for zero, valid in zip(wavedec2(x), wavedec2(x, boundary="valid")):
        for one, other in zip(zero, valid):
            torch.testing.assert_close(one, other)


def test_details_need_no_prompts_and_no_first_stage() -> None:
    loss = FreeKDLoss(preset="details", loss_weight=2.0)
    assert not loss.needs_prompts
    assert list(loss.state_dict()) == []
    assert FreeKDLoss(channels=3, num_levels=2).needs_prompts
    pairs = [_maps(size) for size in SIZES[:2]]
    total = loss([student for student, _ in pairs], [teacher for _, teacher in pairs])
    parts = [freekd_loss(*pair, norm="l2", band_weights="details") for pair in pairs]
    torch.testing.assert_close(total, 2 * (parts[0] + parts[1]))
    total.backward()
    assert all(student.grad is not None and teacher.grad is None for student, teacher in pairs)
    told = FreeKDLoss(channels=3, num_levels=2, preset="details")  # what is stated is compared with the maps
    for maps, words in (
        ([pairs[0][0]], "num_levels=2 maps, got 1"),
        ([torch.ones(1, 4, 8, 8)] * 2, "3 channels, got 4"),
    ):
        with pytest.raises(ValueError, match=words):
            told(maps, maps)


def test_a_gate_that_nothing_could_train_is_refused() -> None:
    with pytest.raises(ValueError, match="relation='gate' needs a prompt stage"):
        FreeKDLoss(channels=3, num_levels=2, preset="details", relation="gate")


def test_magnitudes_do_not_see_the_sign_of_a_detail() -> None:
    """An edge and its opposite get one mask, whose halves a signed token would split."""
    prompt = FrequencyPrompt(channels=1, num_prompts=1, depth=1, score="magnitude")
    prompt.tokens.data.fill_(1.0)
    masks = prompt.masks(wavedec2(TEACHER, level=1))
    torch.testing.assert_close(torch.stack(masks).flatten(), torch.tensor([5.0, 2.0, 1.0, 0.0]).sigmoid())
    for mask, mirrored in zip(masks, prompt.masks(wavedec2(-TEACHER, level=1))):
        assert torch.equal(mask, mirrored)
    loss = FreeKDLoss(1, 1, num_prompts=1, depth=1, relation="none", score="magnitude")
    loss.load_prompts({"prompts.0.tokens": torch.ones(4, 1, 1)})
    expected = sum(value * torch.tensor(float(value)).sigmoid() for value in (5, 2, 1))
    assert loss(STUDENT, TEACHER).item() == pytest.approx(float(expected))


@pytest.mark.parametrize("combine", sorted(COMBINE))
def test_a_module_combines_its_prompts_masks(combine: str) -> None:
    student, teacher = _maps((13, 21))
    loss = FreeKDLoss(3, 1, num_prompts=3, combine=combine, norm="huber", knee=0.5, relation="none").double()
    loss.load_prompts({name: torch.randn_like(value) for name, value in loss.state_dict().items()})
    masks = loss.prompts[0].masks(wavedec2(teacher))
    torch.testing.assert_close(
        loss(student, teacher), freekd_loss(student, teacher, masks, norm="huber", knee=0.5, combine=combine)
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(norm="l3"), "norm must be one of 'l1', 'l2', 'huber', 'log', got 'l3'"),
        (dict(knee=0), "knee must be above 0"),
        (dict(combine="median"), "combine must be one of 'mean', 'max', 'rms', 'contrast', 'none'"),
        (dict(band_weights="lows"), "band_weights must be one of 'mean'"),
        (dict(band_weights=[1, 2, 3]), "band_weights must be one of .* or 10 or 4 numbers for depth=3"),
        (dict(band_weights=[1, 2, 3, -1]), r"band_weights\[3\] must be at least 0"),
        (dict(weight_map=torch.ones(1, 2, 8, 8)), "weight_map must have 1 channels"),
        (dict(weight_map=torch.ones(1, 1, 4, 8)), "at least as large as the map of 8x8"),
        (
            dict(weight_map=torch.ones(1, 1, 8, 8), masks=[torch.ones(1, 1, 1, 1)] * 4),
            "weight_map takes the place of masks, got both",
        ),
        (dict(weight_map=torch.ones(1, 1, 8, 8), wavelet="db2"), "weight_map needs the Haar wavelet"),
        (dict(masks=[torch.ones(1, 1, 1, 1)] * 4, norm="l2"), r"masks\[1\] must be \(N, T, h, w\)"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], words: str) -> None:
    x = torch.ones(1, 2, 8, 8)
    with pytest.raises(ValueError, match=words):
        freekd_loss(x, x, **options)
