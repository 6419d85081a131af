"""Standardised maps, and FreeKD on them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from freqkd.losses import FreeKDLoss, FrequencyPrompt, freekd_loss, mse_loss, pkd_loss, wavedec2
from freqkd.losses.standardization import standardize_pair, standardized

SIZES = [(8, 12), (7, 5), (1, 3)]


@pytest.fixture
def maps():
    torch.manual_seed(0)
    return torch.randn(2, 3, 7, 5, dtype=torch.double), 20 * torch.randn(2, 3, 7, 5, dtype=torch.double) + 4


@pytest.mark.parametrize("size", SIZES)
def test_channels_have_mean_0_and_deviation_1(size):
    torch.manual_seed(0)
    x = torch.randn(4, 3, *size, dtype=torch.double) * torch.tensor([1.0, 30.0, 0.01]).view(3, 1, 1) + 5
    found = standardized(x).transpose(0, 1).flatten(1)
    wanted = F.batch_norm(x, None, None, training=True, eps=1e-12).transpose(0, 1).flatten(1)
    count = found.shape[1]
    torch.testing.assert_close(found, wanted * ((count - 1) / count) ** 0.5, rtol=1e-3, atol=1e-6)
    assert found.std(1).tolist() == pytest.approx([1, 1, 1], rel=1e-3)


def test_one_deviation_keeps_the_channels_apart():
    torch.manual_seed(0)
    x = torch.randn(4, 2, 8, 8, dtype=torch.double) * torch.tensor([1.0, 3.0]).view(2, 1, 1) + 7
    found = standardized(x, per_channel=False).transpose(0, 1).flatten(1)
    assert found.var(1).mean().item() == pytest.approx(1, rel=1e-6)
    assert (found[1].std() / found[0].std()).item() == pytest.approx((x[:, 1].std() / x[:, 0].std()).item())
    assert found.mean(1).abs().max() < 1e-12


def test_constant_channels_and_single_positions_are_finite():
    rounded = (
        torch.tensor([1000.1, 33.3, -0.7]).view(1, 3, 1, 1).expand(2, 3, 13, 13).clone()
    )  # the mean of such is rounded
    for x in (torch.full((2, 3, 4, 4), 7.0), torch.randn(1, 3, 1, 1), rounded):
        if x is rounded:
            assert (x - x.mean((0, 2, 3), keepdim=True)).abs().max() > 1e-5
        x.requires_grad_()
        for per_channel in (True, False):
            found = standardized(x, per_channel)
            assert found.abs().max() == 0
            (grad,) = torch.autograd.grad((found - torch.randn_like(found)).square().sum(), x)
            assert grad.abs().max() == 0


@pytest.mark.parametrize("how", ["level", "channel"])
def test_the_students_map_is_left_alone_where_the_teachers_is_standardised(maps, how):
    student, teacher = maps
    assert standardize_pair(student, teacher, how)[0] is student
    assert standardize_pair(student, teacher, "none") == (student, teacher)


def test_with_both_standardised_it_is_pkd(maps):
    loss = freekd_loss(*maps, norm="l2", band_weights="flat", combine="none", standardize="both", depth=2)
    assert loss.item() == pytest.approx(2 * pkd_loss(*maps).item(), rel=1e-6)


@pytest.mark.parametrize("how", ["level", "channel", "both"])
def test_it_is_the_loss_of_the_standardised_maps(maps, how):
    student, teacher = maps
    student = student.requires_grad_()
    options = dict(norm="l2", band_weights="details", combine="none", depth=2)
    loss = freekd_loss(student, teacher, standardize=how, **options)
    wanted = freekd_loss(*standardize_pair(student, teacher, how), fused=False, **options)
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(torch.autograd.grad(loss, student)[0], torch.autograd.grad(wanted, student)[0])
    module = FreeKDLoss(preset="details", depth=2, standardize=how)
    assert module([student, student], [teacher, teacher]).item() == pytest.approx(2 * loss.item())
    scaled = freekd_loss(student, 30 * teacher + 5, standardize=how, **options)
    assert scaled.item() == pytest.approx(loss.item(), rel=1e-6)
    assert torch.autograd.gradcheck(lambda s: freekd_loss(s, teacher, standardize=how, **options), student)


def test_masks_are_those_of_the_teachers_own_map(maps):
    student, teacher = maps
    prompt = FrequencyPrompt(3, depth=1, normalize=False).double()
    torch.nn.init.normal_(prompt.tokens)
    options = dict(standardize="channel", depth=1)
    loss = freekd_loss(student, teacher, prompt, **options)
    masks = prompt.masks(wavedec2(teacher, "haar", 1))
    assert loss.item() == pytest.approx(freekd_loss(student, standardized(teacher), masks, depth=1).item())
    assert loss.item() != pytest.approx(freekd_loss(student, standardized(teacher), prompt, depth=1).item())


def test_half_precision_is_computed_in_float32(maps):
    student, teacher = (x.half() for x in maps)
    loss = freekd_loss(student, 1000 * teacher, standardize="channel", norm="l2", band_weights="flat", combine="none")
    wanted = mse_loss(student.float(), standardized(1000 * teacher.float()))
    assert torch.isfinite(loss)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-3)


def test_an_unknown_word_is_refused(maps):
    with pytest.raises(ValueError, match="standardize must be one of 'none', 'level', 'channel', 'both', got 'layer'"):
        freekd_loss(*maps, standardize="layer")
    with pytest.raises(ValueError, match="standardize must be one of"):
        FreeKDLoss(preset="details", standardize="layer")
