"""AM-RADIO's feature loss."""

from __future__ import annotations

import pytest
import torch

from freqkd.losses import am_radio_loss, cosine_loss
from freqkd.losses.am_radio import AMRadioLoss


def test_it_is_nine_parts_cosine_and_one_part_smooth_l1() -> None:
    student, teacher = torch.randn(2, 2, 3, 2, 5) * 3
    differences = (student - teacher).abs().flatten().tolist()
    assert min(differences) < 2 < max(differences)  # both parts of the smooth L1
    distance = sum(d * d / 4 if d < 2 else d - 1 for d in differences) / len(differences)
    expected = 0.9 * cosine_loss(student, teacher).item() + 0.1 * distance
    assert am_radio_loss(student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_its_parts() -> None:
    student, teacher = torch.randn(2, 2, 3, 4, 4)
    assert AMRadioLoss(1.0, 0.0)(student, teacher).item() == pytest.approx(cosine_loss(student, teacher).item())
    large = AMRadioLoss(0.0, 2.0, beta=1e6)(student, teacher).item()
    assert large == pytest.approx(2 * (student - teacher).square().mean().item() / 2e6, rel=1e-4)


@pytest.mark.parametrize("options", [dict(cosine_weight=-1.0), dict(l1_weight=-1.0), dict(beta=0.0)])
def test_wrong_arguments(options: dict[str, float]) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} must be"):
        AMRadioLoss(**options)
    with pytest.raises(ValueError, match=f"{name} must be"):
        am_radio_loss(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1), **options)
