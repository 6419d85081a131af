"""Token scores of subbands without subbands."""

from __future__ import annotations

import pytest
import torch

from freqkd.prompts import FrequencyPrompt
from freqkd.scores import subband_scores


@pytest.mark.parametrize("size", [(16, 24), (13, 21), (1, 1), (2, 3), (7, 8)])
@pytest.mark.parametrize("bands", ["subband", "level"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("num_prompts", "level"), [(1, 3), (2, 3), (6, 3), (2, 1), (1, 1), (3, 2)])
def test_equal_the_scores_of_the_subbands(
    size, bands: str, layout: torch.memory_format, num_prompts: int, level: int
) -> None:
    torch.manual_seed(0)
    prompt = FrequencyPrompt(5, num_prompts, level, bands).double()
    prompt.tokens.data.normal_()
    prompt._warned = True
    feat = torch.randn(2, 5, *size, dtype=torch.float64).contiguous(memory_format=layout)
    scores = subband_scores(feat, prompt.tokens, level)
    for score, mask in zip(scores, prompt.masks(prompt.decompose(feat)), strict=True):
        torch.testing.assert_close(score.sigmoid(), mask)


def test_half_maps_are_scored_in_full_precision() -> None:
    feat, tokens = torch.randn(1, 4, 10, 9).bfloat16(), torch.randn(10, 2, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = subband_scores(feat, tokens, 3)
    for score, expected in zip(scores, subband_scores(feat.float(), tokens, 3)):
        assert score.dtype == torch.float32
        torch.testing.assert_close(score, expected)


def test_wrong_tokens() -> None:
    feat = torch.randn(1, 4, 8, 8)
    with pytest.raises(ValueError, match=r"tokens must hold 10 sets .* or 4 .* for level=3, got 7"):
        subband_scores(feat, torch.randn(7, 2, 4), 3)
    with pytest.raises(ValueError, match="feat must have 3 channels, got 4"):
        subband_scores(feat, torch.randn(10, 2, 3), 3)
