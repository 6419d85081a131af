"""Frequency prompts: masks, rebuilt maps and overlaps."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch.nn.functional import avg_pool2d

from freqkd.losses.freekd.prompts import FrequencyPrompt, build_prompts, dice_overlap, jaccard_overlap, mask_deviation
from freqkd.losses.freekd.wavelets import Subbands, waverec2


def _official(case, level: int) -> FrequencyPrompt:
    tokens = case.array("prompt", level)
    prompt = FrequencyPrompt(
        tokens.shape[2], tokens.shape[1], tokens_per="scale", overlap="dice", normalize=False
    ).double()
    prompt.tokens.data.copy_(tokens)
    return prompt


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_the_released_program(feature_case, seed: int) -> None:
    case = feature_case("freekd_official", seed)
    for level in case.levels():
        prompt, feat = _official(case, level), case.array("y_t", level)
        bands = prompt.decompose(feat)
        masks = prompt.masks(bands)
        for mask, name in zip(masks, ["mask_LL", "mask_1", "mask_2", "mask_3"], strict=True):
            torch.testing.assert_close(mask, case.array(name, level), rtol=1e-5, atol=1e-7)
        rebuilt, dice = prompt(feat)
        expected = case.array("recon", level)[..., : feat.shape[-2], : feat.shape[-1]]
        torch.testing.assert_close(rebuilt, expected, rtol=1e-5, atol=1e-6)
        assert dice.item() == pytest.approx(case.number(f"l{level}.dice"), rel=1e-5, abs=1e-7)
        (grad,) = torch.autograd.grad(dice, prompt.tokens)
        torch.testing.assert_close(grad, case.array("dice_grad", level), rtol=1e-5, atol=1e-7)
        # The stored gradient's mean runs over the padding, too: rebuild to the padded size.
        padded = prompt.rebuild(bands, prompt.masks(bands))
        assert padded.shape == case.array("recon", level).shape
        total = prompt.measure_overlap(prompt.masks(bands)) + 0.5 * padded.square().mean()
        (grad,) = torch.autograd.grad(total, prompt.tokens)
        torch.testing.assert_close(grad, case.array("prompt_grad", level), rtol=1e-5, atol=1e-7)


def test_masks_by_hand() -> None:
    ones = torch.ones(1, 1, 1, 1)
    bands = Subbands(low=ones, details=(torch.tensor([1.0, -1.0, 2.0]).reshape(1, 1, 3, 1, 1),))
    prompt = FrequencyPrompt(channels=1, num_prompts=1, depth=1)
    prompt.tokens.data.fill_(math.log(3))
    assert [round(m.item(), 6) for m in prompt.masks(bands)] == [0.75, 0.75, 0.25, 0.9]
    shared = FrequencyPrompt(channels=1, num_prompts=1, depth=1, tokens_per="scale")
    shared.tokens.data.fill_(math.log(3))
    assert [round(m.item(), 6) for m in shared.masks(bands)] == [0.75, 0.9]  # of the sum of the three orientations


def test_rebuilt_map_by_hand() -> None:
    # Bands of the block are 5, -2, -1, 0; masks sigmoid(token * band).
    feat = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    prompt = FrequencyPrompt(channels=1, num_prompts=1, depth=1)
    prompt.tokens.data.copy_(torch.tensor([0.0, math.log(3) / -2, 0.0, 0.0]).reshape(4, 1, 1))
    rebuilt, _ = prompt(feat)  # twice the masks 0.5, 0.75, 0.5, 0.5: LH grows to -3
    torch.testing.assert_close(rebuilt, torch.tensor([[[[0.5, 1.5], [3.5, 4.5]]]]))


@pytest.mark.parametrize("tokens_per", ["subband", "scale"])
@pytest.mark.parametrize("num_prompts", [1, 2, 3, 6])
def test_starts_as_the_identity(num_prompts: int, tokens_per: str) -> None:
    noise = torch.randn(2, 256, 24, 40)
    smooth = 3 + avg_pool2d(noise, 5, 1, 2).relu()  # a large low band
    for feat in (noise, smooth):
        prompt = FrequencyPrompt(256, num_prompts, tokens_per=tokens_per)
        rebuilt, _ = prompt(feat)
        gain = (rebuilt * feat).sum() / feat.square().sum()
        assert abs(gain.item() - 1) < 0.02
        assert (rebuilt - feat).norm() / feat.norm() < 0.02
        plain = FrequencyPrompt(256, num_prompts, tokens_per=tokens_per, normalize=False)
        rebuilt, _ = plain(feat)
        gain = (rebuilt * feat).sum() / feat.square().sum()
        assert gain.item() == pytest.approx(num_prompts / 2, rel=0.02)


@pytest.mark.parametrize("num_prompts", [2, 3, 6])
@pytest.mark.parametrize("overlap", ["jaccard", "dice"])
def test_tokens_differ_and_part(num_prompts: int, overlap: str) -> None:
    prompt = FrequencyPrompt(16, num_prompts, depth=2, overlap=overlap)
    for band in prompt.tokens:
        assert torch.pdist(band.detach()).min() > 0
    feat, start = torch.randn(1, 16, 12, 12), prompt(torch.randn(1, 16, 12, 12))[1].item()
    optimizer = torch.optim.Adam(prompt.parameters(), lr=0.02)
    flat = mask_deviation(prompt.masks(prompt.decompose(feat)))
    for _ in range(60):
        optimizer.zero_grad()
        prompt(feat)[1].backward()
        optimizer.step()
    assert prompt(feat)[1].item() < 0.9 * start
    assert mask_deviation(prompt.masks(prompt.decompose(feat))) > max(2 * flat, torch.tensor(0.1))


def test_overlaps_by_hand() -> None:
    masks = torch.tensor([[[[1.0, 0.0]], [[1.0, 2.0]]]])
    # inner 1, squares 1 and 5: Jaccard 1/5 twice and 1 twice; Dice 2/6
    assert jaccard_overlap(masks).item() == pytest.approx(0.6)
    assert dice_overlap(masks).item() == pytest.approx(1 / 3)
    both = torch.cat([masks, torch.ones_like(masks)])  # an image of equal masks: overlap 1
    assert jaccard_overlap(both).item() == pytest.approx(0.8)
    assert dice_overlap(both).item() == pytest.approx(2 / 3)
    apart = torch.eye(3)[None, :, None]
    assert jaccard_overlap(apart).item() == pytest.approx(1 / 3)
    assert dice_overlap(apart).item() == 0


def test_overlap_over_bands() -> None:
    masks = [torch.rand(2, 3, 5, 7), torch.rand(2, 3, 2, 2)]
    mean = FrequencyPrompt(4, 3).measure_overlap(masks)
    torch.testing.assert_close(mean, (jaccard_overlap(masks[0]) + jaccard_overlap(masks[1])) / 2)
    total = FrequencyPrompt(4, 3, overlap="dice").measure_overlap(masks)
    torch.testing.assert_close(total, dice_overlap(masks[0]) + dice_overlap(masks[1]))


@pytest.mark.parametrize("overlap", ["jaccard", "dice"])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (9, 12)])
def test_one_prompt_and_small_maps_stay_finite(overlap: str, size: tuple[int, int]) -> None:
    for num_prompts in (1, 2):
        prompt = FrequencyPrompt(4, num_prompts, overlap=overlap)
        feat = torch.randn(1, 4, *size, requires_grad=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rebuilt, value = prompt(feat)
        assert rebuilt.shape == feat.shape
        (rebuilt.square().mean() + value).backward()
        if num_prompts == 1:
            assert value.item() == pytest.approx({"jaccard": 1.0, "dice": 0.0}[overlap])
        assert prompt.tokens.grad.isfinite().all()
        assert feat.grad.isfinite().all()


def test_masks_that_vanish_stay_finite() -> None:
    masks = torch.zeros(1, 2, 3, 3, requires_grad=True)
    value = jaccard_overlap(masks) + dice_overlap(masks)
    value.backward()
    assert value.item() == 0
    assert masks.grad.isfinite().all()


def test_mask_deviation() -> None:
    half = torch.tensor([[[[0.0, 1.0]], [[0.5, 0.5]]]])  # deviations 0.5 and 0
    assert mask_deviation([half]).item() == pytest.approx(0.25)
    assert mask_deviation([half, torch.rand(3, 2, 1, 1)]).item() == pytest.approx(0.125)
    with pytest.raises(ValueError, match="masks must hold at least one band"):
        mask_deviation([])


def test_one_token_moves_one_band() -> None:
    """Band order: the low band, then finest to coarsest, per level LH, HL, HH."""
    feat = torch.randn(1, 2, 8, 8)
    for index in range(7):
        prompt = FrequencyPrompt(2, 1, depth=2)
        prompt.tokens.data.zero_()
        prompt.tokens.data[index] = 5.0
        split = prompt.decompose(feat)
        rebuilt = prompt.decompose(prompt(feat)[0])
        flat = [[b.low] + [d[:, :, k] for d in b.details for k in range(3)] for b in (split, rebuilt)]
        moved = [not torch.allclose(a, b, atol=1e-5) for a, b in zip(*flat)]
        assert moved == [i == index for i in range(7)]


@pytest.mark.parametrize("tokens_per", ["subband", "scale"])
@pytest.mark.parametrize("overlap", ["jaccard", "dice"])
def test_gradients(tokens_per: str, overlap: str) -> None:
    prompt = FrequencyPrompt(2, 2, depth=1, tokens_per=tokens_per, overlap=overlap).double()
    tokens = torch.randn_like(prompt.tokens).requires_grad_()
    feat = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    call = lambda feat, tokens: torch.func.functional_call(prompt, {"tokens": tokens}, (feat,))  # noqa: E731
    assert torch.autograd.gradcheck(call, (feat, tokens))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("half_input", [False, True])
def test_autocast(dtype: torch.dtype, half_input: bool) -> None:
    feat = torch.randn(2, 8, 13, 21).to(dtype if half_input else torch.float32)
    prompt = FrequencyPrompt(8, 2)
    prompt.tokens.data.normal_(std=0.3)
    expected, expected_overlap = prompt(feat.float())
    with torch.autocast("cpu", dtype=dtype):
        rebuilt, overlap = prompt(feat)
    assert rebuilt.dtype == feat.dtype
    assert overlap.dtype == torch.float32
    torch.testing.assert_close(overlap, expected_overlap)  # computed in float32 all the same
    torch.testing.assert_close(rebuilt.float(), expected, rtol=1e-2, atol=1e-2)
    (rebuilt.float().square().mean() + overlap).backward()
    assert prompt.tokens.grad.isfinite().all()
    assert prompt.tokens.grad.norm() > 0


def test_no_masked_copy_is_kept(saved_sizes) -> None:
    feat = torch.randn(1, 8, 32, 32)
    kept = []
    for num_prompts in (2, 6):
        prompt = FrequencyPrompt(8, num_prompts, tokens_per="scale")
        sizes = saved_sizes(lambda: prompt(feat))  # noqa: B023 (called at once)
        kept.append(sum(size for size in sizes if size >= feat.numel() // 4))  # T masks are smaller
    assert kept[0] == kept[1]
    assert kept[0] > 0


def test_small_map_warns_once_and_names_a_depth_that_fits() -> None:
    prompt = FrequencyPrompt(2, depth=3)
    with pytest.warns(UserWarning, match=r"4x9 positions is too small for depth=3.*depth=2 would fit"):
        prompt(torch.randn(1, 2, 4, 9))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prompt(torch.randn(1, 2, 2, 3))  # once
        FrequencyPrompt(2, depth=3)(torch.randn(1, 2, 5, 9))
        FrequencyPrompt(2, depth=2)(torch.randn(1, 2, 4, 9))  # the depth it named
    with pytest.warns(UserWarning, match="depth=1 would fit better"):
        FrequencyPrompt(2, depth=3)(torch.randn(1, 2, 1, 9))


def test_other_wavelets() -> None:
    pytest.importorskip("pytorch_wavelets")
    feat = torch.randn(1, 4, 25, 42)
    rebuilt, _ = FrequencyPrompt(4, 2, wavelet="db2")(feat)
    torch.testing.assert_close(rebuilt, feat, rtol=0, atol=1e-5)
    rebuilt, _ = FrequencyPrompt(4, 1, wavelet="db2")(feat)
    assert (rebuilt - feat).norm() / feat.norm() < 0.02


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"num_prompts": 0}, "num_prompts must be at least 1, got 0"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        (
            {"tokens_per": "subbands"},
            "tokens_per must be one of 'subband', 'scale', got 'subbands'; did you mean 'subband'?",
        ),
        ({"overlap": "dise"}, "overlap must be one of 'jaccard', 'dice', got 'dise'; did you mean 'dice'?"),
    ],
)
def test_wrong_arguments(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("?", r"\?")):
        FrequencyPrompt(**{"channels": 4, **options})


def test_wrong_input() -> None:
    prompt = FrequencyPrompt(4, depth=2)
    with pytest.raises(ValueError, match="feat must have 4 channels, got 3"):
        prompt(torch.randn(1, 3, 8, 8))
    with pytest.raises(ValueError, match="bands must have 2 levels of details, got 3"):
        prompt.masks(FrequencyPrompt(4, depth=3).decompose(torch.randn(1, 4, 8, 8)))
    with pytest.raises(ValueError, match="bands must have 4 channels, got 3"):
        prompt.masks(FrequencyPrompt(3, depth=2).decompose(torch.randn(1, 3, 8, 8)))
    with pytest.raises(ValueError, match="masks must be a map"):
        jaccard_overlap(torch.rand(2, 3))


def test_presets_of_a_prompt_stage_and_what_overrides_them() -> None:
    paper, official = build_prompts(4, 1)[0], build_prompts(4, 1, preset="official")[0]
    assert (paper.tokens_per, paper.overlap, paper.normalize, paper.num_prompts) == ("subband", "jaccard", True, 2)
    assert (official.tokens_per, official.overlap, official.normalize) == ("scale", "dice", False)
    options = dict(num_prompts=3, tokens_per="subband", overlap="jaccard", normalize=True, depth=2, wavelet="db2")
    changed = build_prompts([4, 8], 2, preset="official", score="magnitude", **options)
    assert [prompt.channels for prompt in changed] == [4, 8]
    for prompt in changed:
        assert {name: getattr(prompt, name) for name in options} == options
        assert prompt.score == "magnitude"
    with pytest.raises(ValueError, match="preset must be one of 'paper', 'official', got 'details'"):
        build_prompts(4, 1, preset="details")
    with pytest.raises(ValueError, match="channels must be a number or one per level, 2 of them, got 3"):
        build_prompts([4, 4, 4], 2)


def test_state_holds_tokens_alone() -> None:
    prompt = FrequencyPrompt(4, 2, depth=2)
    assert {name: tuple(value.shape) for name, value in prompt.state_dict().items()} == {"tokens": (7, 2, 4)}
    split = prompt.decompose(torch.randn(1, 4, 7, 9))
    torch.testing.assert_close(prompt.rebuild(split, prompt.masks(split), (7, 9)), waverec2(split, size=(7, 9)))
