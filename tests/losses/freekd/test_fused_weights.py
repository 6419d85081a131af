"""Weights of Haar coefficients: from tokens the same as from the masks that they make."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from freqkd.losses.freekd.fused.strips import Strips
from freqkd.losses.freekd.fused.weights import weights_of_masks, weights_of_tokens
from freqkd.losses.freekd.prompts import FrequencyPrompt

SIZES = [(16, 24), (13, 21), (40, 9), (1, 1), (2, 3), (7, 8)]


def _prompt(channels: int, num_prompts: int, depth: int, tokens_per: str) -> FrequencyPrompt:
    prompt = FrequencyPrompt(channels, num_prompts, depth, tokens_per)
    prompt.tokens.data.normal_()
    prompt._warned = True
    return prompt


def _check(teachers: list[Tensor], prompts: list[FrequencyPrompt], scale_weights: list[float]) -> None:
    depth = len(scale_weights) - 1
    tokens = [prompt.tokens.detach() for prompt in prompts]
    weights, scales = weights_of_tokens(teachers, tokens, scale_weights)
    lengths = Strips.of(teachers, depth).lengths
    for prompt, teacher, scale, found in zip(prompts, teachers, scales, weights.split(lengths, -1), strict=True):
        masks = prompt.masks(prompt.decompose(teacher))
        expected, (wanted,) = weights_of_masks(masks, teacher, scale_weights)
        assert scale == wanted
        inside = expected > 0  # positions that exist; the difference is 0 where there is none
        torch.testing.assert_close(found[inside], expected[inside])
        assert found.shape == expected.shape
        assert found.isfinite().all()


@pytest.mark.parametrize("tokens_per", ["subband", "scale"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("num_prompts", "depth"), [(1, 3), (2, 3), (6, 3), (2, 1), (1, 1), (3, 2), (9, 4)])
def test_tokens_give_the_weights_of_their_masks(tokens_per: str, layout, dtype, num_prompts: int, depth: int) -> None:
    teachers = [torch.randn(2, 5, *size, dtype=dtype).contiguous(memory_format=layout) for size in SIZES]
    prompts = [_prompt(5, num_prompts, depth, tokens_per).to(dtype) for _ in teachers]
    for scale_weights in ([1.0] * (1 + depth), [0.0, *[1 / 3] * depth], [0.5 + j for j in range(1 + depth)]):
        _check(teachers, prompts, scale_weights)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_maps_are_weighed_in_full_precision(dtype: torch.dtype) -> None:
    teachers = [torch.randn(1, 4, *size).to(dtype) for size in SIZES]
    prompts = [_prompt(4, 2, 3, "subband") for _ in teachers]
    with torch.autocast("cpu", dtype=dtype):
        found, _ = weights_of_tokens(teachers, [prompt.tokens.detach() for prompt in prompts], [1.0] * 4)
        _check(teachers, prompts, [1.0] * 4)
    assert found.dtype == torch.float32


def test_weights_by_hand() -> None:
    """A map of 2 x 2: corners LL, LH, HL, HH; coefficients of butterflies without 1/2 are twice too large."""
    masks = [torch.full((1, 2, 1, 1), value) for value in (0.2, 0.4, 0.6, 0.8)]
    masks[1][:, 1] = 0.2  # the mean of two masks: 0.3
    weights, (scale,) = weights_of_masks(masks, torch.ones(3, 4, 2, 2), [3.0, 5.0])
    assert scale == 1 / 12
    expected = torch.tensor([[3 * 0.2, 5 * 0.6], [5 * 0.3, 5 * 0.8]]) / 2
    torch.testing.assert_close(weights, expected[None, None])
