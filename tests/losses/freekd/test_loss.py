"""FreeKD: the loss of a map, and of a pyramid."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor

from freqkd.losses.freekd.loss import FreeKDLoss, freekd_loss
from freqkd.losses.freekd.prompts import FrequencyPrompt
from freqkd.losses.freekd.relation import relation_weights
from freqkd.losses.freekd.wavelets import wavedec2


def _bands(x: Tensor) -> list[Tensor]:
    low, details = wavedec2(x)
    return [low] + [detail[:, :, k] for detail in details for k in range(3)]


def _random_state(loss: FreeKDLoss, scale: float = 0.5) -> dict[str, Tensor]:
    return {name: torch.randn_like(value) * scale for name, value in loss.state_dict().items()}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("fused", [True, False])
def test_official_equals_the_released_program(feature_case, seed: int, fused: bool) -> None:
    case = feature_case("freekd_official", seed)
    students, teachers = case.pyramids()
    loss = FreeKDLoss(8, len(students), int(case.number("T")), preset="official", fused=fused).double()
    loss.load_prompts({f"prompts.{level}.tokens": case.array("prompt", level) for level in case.levels()})
    value = loss(students, teachers)
    assert value.item() == pytest.approx(case.number("loss"), rel=1e-5, abs=1e-7)
    for level, grad in enumerate(torch.autograd.grad(value, students)):
        torch.testing.assert_close(grad, case.array("grad_s", level), rtol=1e-5, atol=1e-7)
        single = FreeKDLoss(8, 1, int(case.number("T")), preset="official", fused=fused).double()
        single.load_prompts({"prompts.0.tokens": case.array("prompt", level)})
        expected = case.number(f"l{level}.loss")
        assert single(students[level], teachers[level]).item() == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_by_hand() -> None:
    # Teacher bands 5, -2, -1, 0; student bands 0, 0, 0, 1.
    teacher = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    student = torch.tensor([[[[0.5, -0.5], [-0.5, 0.5]]]])
    assert freekd_loss(student, teacher, depth=1).item() == 9
    assert freekd_loss(student, teacher, depth=1, band_weights=[0, 1, 1, 1]).item() == 4
    mean = freekd_loss(student, teacher, depth=1, band_weights="orientation-mean")
    assert mean.item() == pytest.approx(4 / 3)
    masks = [torch.full((1, 2, 1, 1), m) for m in (0.5, 0.25, 1.0, 0.75)]
    masks[0][:, 1] = 0.1  # the mean of two masks: 0.3
    assert freekd_loss(student, teacher, masks, depth=1).item() == pytest.approx(0.3 * 5 + 0.25 * 2 + 1 + 0.75)
    shared = masks[:2]  # one mask for all three orientations
    assert freekd_loss(student, teacher, shared, depth=1).item() == pytest.approx(0.3 * 5 + 0.25 * 4)


def test_module_by_hand() -> None:
    teacher = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    loss = FreeKDLoss(1, 1, num_prompts=2, depth=1, relation="none", loss_weight=2.0)
    # Masks of the low band: 0.75 and 0.25 -> mean 0.5; of LH 0.9 and 0.9; the rest 0.5.
    tokens = torch.zeros(4, 2, 1)
    tokens[0, :, 0] = torch.tensor([math.log(3) / 5, -math.log(3) / 5])
    tokens[1] = math.log(9) / -2
    loss.load_prompts({"prompts.0.tokens": tokens})
    assert loss(torch.zeros_like(teacher), teacher).item() == pytest.approx(2 * (0.5 * 5 + 0.9 * 2 + 0.5 * 1))
    official = FreeKDLoss(1, 1, depth=1, preset="official")
    official.load_prompts({"prompts.0.tokens": torch.stack([tokens[0], torch.full((2, 1), math.log(9) / -3)])})
    assert official(torch.zeros_like(teacher), teacher).item() == pytest.approx(0.9 * 3 / 3)


def test_masks_of_ones_are_the_plain_distance() -> None:
    student, teacher = torch.randn(2, 2, 4, 13, 21, dtype=torch.float64)
    bands = _bands(student - teacher)
    plain = sum(band.abs().mean() for band in bands)
    ones = [torch.ones(2, 3, *band.shape[-2:]) for band in bands]
    torch.testing.assert_close(freekd_loss(student, teacher, ones), plain)
    torch.testing.assert_close(freekd_loss(student, teacher), plain)
    loss = FreeKDLoss(4, 1, relation="none").double()
    loss.prompts[0].tokens.data.zero_()
    torch.testing.assert_close(loss(student, teacher), plain / 2)  # sigmoid(0)


def test_paper_is_the_weighted_sum_over_bands() -> None:
    students, teachers = ([torch.randn(2, 4, s, s + 3) for s in (20, 10)] for _ in range(2))
    loss = FreeKDLoss(4, 2, num_prompts=3)
    loss.load_prompts(_random_state(loss))
    total = torch.zeros(())
    for index, (student, teacher) in enumerate(zip(students, teachers)):
        deeper = (students[1], teachers[1]) if index == 0 else (None, None)
        omega = relation_weights(student, teacher, *deeper)[:, :, None, None]
        masks = loss.prompts[index].masks(wavedec2(teacher))
        for mask, s, t in zip(masks, _bands(student), _bands(teacher), strict=True):
            copies = [(m[:, None] * s - m[:, None] * t).abs() for m in mask.unbind(1)]
            total = total + (omega * torch.stack(copies).mean(0)).mean()
    torch.testing.assert_close(loss(students, teachers), total)


@pytest.mark.parametrize("tokens_per", ["subband", "scale"])
@pytest.mark.parametrize("fused", [True, False])
def test_a_prompt_stands_for_its_masks(tokens_per: str, fused: bool) -> None:
    student, teacher = torch.randn(2, 2, 4, 13, 21, dtype=torch.float64)
    prompt = FrequencyPrompt(4, 3, tokens_per=tokens_per).double()
    prompt.tokens.data.normal_()
    masks = prompt.masks(prompt.decompose(teacher))
    expected = freekd_loss(student, teacher, masks, fused=False)
    torch.testing.assert_close(freekd_loss(student, teacher, prompt, fused=fused), expected)
    unmasked = freekd_loss(student, teacher, prompt, combine="none", fused=fused)
    torch.testing.assert_close(unmasked, freekd_loss(student, teacher))
    student.requires_grad_(), teacher.requires_grad_()
    freekd_loss(student, teacher, prompt, fused=fused).backward()
    assert student.grad.norm() > 0
    assert teacher.grad is None
    assert prompt.tokens.grad is None


def test_explicit_settings_override_a_preset() -> None:
    student, teacher = torch.randn(2, 1, 4, 16, 16)
    same = {"tokens_per": "scale", "relation": "none", "band_weights": "orientation-mean"}
    paper = FreeKDLoss(4, 1, preset="paper", **same)
    official = FreeKDLoss(4, 1, preset="official")
    state = _random_state(official)
    paper.load_prompts(state)
    official.load_prompts(state)
    assert paper(student, teacher) == official(student, teacher)
    assert repr(paper) == repr(official)
    for name, value in {"tokens_per": "subband", "depth": 2, "score": "magnitude", "wavelet": "db2"}.items():
        prompt = FreeKDLoss(4, 1, preset="official", **{name: value}).prompts[0]
        assert getattr(prompt, name) == value
    more = FreeKDLoss(4, 1, preset="official", band_weights=[1, 1 / 3, 1 / 3, 1 / 3])
    more.load_prompts(state)
    assert more(student, teacher) > official(student, teacher)
    summed = FreeKDLoss(4, 1, preset="official", band_weights=[0, 1, 1, 1])
    summed.load_prompts(state)
    torch.testing.assert_close(summed(student, teacher), 3 * official(student, teacher))


@pytest.mark.parametrize("preset", ["paper", "official"])
@pytest.mark.parametrize("relation", ["none", "attention", "gate"])
def test_zero_iff_equal(preset: str, relation: str) -> None:
    loss = FreeKDLoss(4, 2, preset=preset, relation=relation, loss_weight=3.0)
    students, teachers = ([torch.randn(1, 4, s, s) for s in (12, 6)] for _ in range(2))
    assert loss(students, [s.clone() for s in students]) == 0
    assert loss(students, teachers) > 0
    assert loss(students, [students[0], students[1] + torch.randn_like(students[1]) * 1e-3]) > 0


@pytest.mark.parametrize("preset", ["paper", "official"])
@pytest.mark.parametrize("relation", ["none", "attention", "gate"])
def test_gradient_reaches_the_student_alone(preset: str, relation: str) -> None:
    loss = FreeKDLoss(4, 2, preset=preset, relation=relation)
    assert len(loss.gates) == (2 if relation == "gate" else 0)
    assert list(loss.parameters())
    assert not any(p.requires_grad for p in loss.parameters())
    maps = [[torch.randn(1, 4, s, s, requires_grad=True) for s in (16, 8)] for _ in range(2)]
    loss(*maps).backward()
    assert all(s.grad.norm() > 0 for s in maps[0])
    assert all(t.grad is None for t in maps[1])
    assert all(p.grad is None for p in loss.parameters())


@pytest.mark.parametrize("wavelet", ["haar", "db2"])
@pytest.mark.parametrize("masked", [True, False])
def test_gradients(wavelet: str, masked: bool) -> None:
    student, teacher = torch.randn(2, 2, 2, 5, 6, dtype=torch.float64)
    prompt = FrequencyPrompt(2, 2, depth=2, wavelet=wavelet).double()
    masks = prompt.masks(prompt.decompose(teacher)) if masked else None
    weights = torch.rand(2, 2, dtype=torch.float64) if masked else None
    call = lambda s: freekd_loss(s, teacher, masks, weights, depth=2, wavelet=wavelet)  # noqa: E731
    assert torch.autograd.gradcheck(call, student.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("half_input", [False, True])
@pytest.mark.parametrize("preset", ["paper", "official"])
def test_half_precision(dtype: torch.dtype, half_input: bool, preset: str) -> None:
    inner = dtype if half_input else torch.float32
    students = [torch.randn(2, 4, 13, 21).mul(100).to(inner).requires_grad_(), torch.randn(2, 4, 7, 11).to(inner)]
    teachers = [torch.randn_like(s).detach() for s in students]
    loss = FreeKDLoss(4, 2, preset=preset, relation="gate")
    loss.load_prompts(_random_state(loss))
    with torch.autocast("cpu", dtype=dtype):
        value = loss(students, teachers)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss([s.float() for s in students], [t.float() for t in teachers]))
    value.backward()
    assert students[0].grad.isfinite().all()
    assert students[0].grad.norm() > 0


@pytest.mark.parametrize("preset", ["paper", "official"])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (9, 16)])
@pytest.mark.parametrize("num_prompts", [1, 2])
def test_small_maps_and_one_prompt_stay_finite(preset: str, size: tuple[int, int], num_prompts: int) -> None:
    student, teacher = (torch.randn(1, 4, *size, requires_grad=True) for _ in range(2))
    loss = FreeKDLoss(4, 1, num_prompts, preset=preset)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = loss(student, teacher)
    value.backward()
    assert value > 0
    assert student.grad.isfinite().all()


def test_small_map_warns_once() -> None:
    loss = FreeKDLoss(2, 1, depth=3)
    with pytest.warns(UserWarning, match="depth=2 would fit"):
        loss(torch.randn(1, 2, 3, 8), torch.randn(1, 2, 3, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(torch.randn(1, 2, 3, 8), torch.randn(1, 2, 3, 8))


def test_channels_per_level_and_single_maps() -> None:
    loss = FreeKDLoss([2, 3], 2, relation="none")
    assert [p.tokens.shape[2] for p in loss.prompts] == [2, 3]
    maps = [torch.randn(1, 2, 16, 16), torch.randn(1, 3, 16, 16)]
    assert loss(maps, tuple(m + 1 for m in maps)) > 0
    one = FreeKDLoss(2, 1)
    assert one(maps[0], maps[0] + 1) == one([maps[0]], (maps[0] + 1,))


def test_load_prompts_copies() -> None:
    stage = {f"prompts.{i}.tokens": torch.randn(10, 2, 4) for i in range(2)}
    loss = FreeKDLoss(4, 2)
    loss.load_prompts(stage)
    assert all(torch.equal(loss.state_dict()[name], value) for name, value in stage.items())
    stage["prompts.0.tokens"].zero_()
    assert loss.prompts[0].tokens.norm() > 0
    assert not loss.prompts[0].tokens.requires_grad
    gated = FreeKDLoss(4, 2, relation="gate")
    other = FreeKDLoss(4, 2, relation="gate")
    other.load_prompts(gated.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(gated.state_dict().values(), other.state_dict().values()))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_levels": 3}, r"but prompts.2.tokens is \(10, 2, 4\) and must be left out;"),
        ({"num_levels": 1}, r"but prompts.1.tokens is missing and must be \(10, 2, 4\);"),
        ({"num_prompts": 6}, r"prompts.0.tokens is \(10, 6, 4\) and must be \(10, 2, 4\); prompts.1"),
        ({"channels": [4, 8]}, r"but prompts.1.tokens is \(10, 2, 8\) and must be \(10, 2, 4\); take"),
        ({"tokens_per": "scale"}, r"prompts.0.tokens is \(4, 2, 4\) and must be \(10, 2, 4\)"),
        ({"depth": 2}, r"prompts.0.tokens is \(7, 2, 4\) and must be \(10, 2, 4\)"),
        ({"relation": "gate"}, r"gates.0.mlp.0.bias is \(8,\) and must be left out"),
    ],
)
def test_load_prompts_names_the_difference(options: dict[str, object], words: str) -> None:
    state = FreeKDLoss(**{"channels": 4, "num_levels": 2, **options}).state_dict()
    loss = FreeKDLoss(4, 2)
    before = loss.prompts[0].tokens.clone()
    with pytest.raises(ValueError, match=words):
        loss.load_prompts(state)
    assert torch.equal(loss.prompts[0].tokens, before)


def test_load_prompts_is_strict() -> None:
    state = FreeKDLoss(4, 2).state_dict()
    for extra in ("extra", "teacher_hash"):
        with pytest.raises(ValueError, match=rf"but {extra} is \(1,\) and must be left out"):
            FreeKDLoss(4, 2).load_prompts({**state, extra: torch.ones(1)})
    with pytest.raises(ValueError, match=r"gates.1.mlp.2.weight is missing and must be \(1, 8\)"):
        FreeKDLoss(4, 2, relation="gate").load_prompts(state)
    loss, other = FreeKDLoss(4, 2), FreeKDLoss(4, 2).state_dict()
    other["prompts.1.tokens"] = torch.full_like(other["prompts.1.tokens"], torch.nan)
    before = loss.prompts[0].tokens.clone()
    with pytest.raises(ValueError, match=r"prompts.1.tokens must hold finite numbers, got 80 of 80"):
        loss.load_prompts(other)
    assert torch.equal(loss.prompts[0].tokens, before)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"preset": "papers"}, "preset must be one of 'paper', 'official', 'details', 'whitened', got 'papers'"),
        ({"num_levels": 0}, "num_levels must be at least 1, got 0"),
        ({"channels": [4, 4, 4]}, "channels must be a number or one per level, 2 of them, got 3"),
        ({"relation": "gated"}, "relation must be one of .* did you mean 'gate'"),
        (
            {"band_weights": "max"},
            "band_weights must be one of 'mean', 'orientation-mean', 'flat', 'low', 'details', 'whitened', got 'max'",
        ),
        ({"tokens_per": "band"}, "tokens_per must be one of 'subband', 'scale', got 'band'"),
        ({"tokens_per": ""}, "tokens_per must be one of 'subband', 'scale', got ''"),
        ({"score": "absolute"}, "score must be one of 'signed', 'magnitude'"),
        ({"num_prompts": 0}, "num_prompts must be at least 1"),
        ({"channels": None}, "channels and num_levels must both be given .* got channels=None, num_levels=2"),
        ({"num_levels": None}, "channels and num_levels must both be given .* got channels=4, num_levels=None"),
        ({"fused": "no"}, "fused must be True or False"),
    ],
)
def test_wrong_arguments(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FreeKDLoss(**{"channels": 4, "num_levels": 2, **options})


def test_wrong_input() -> None:
    loss, feat = FreeKDLoss(4, 1), torch.randn(2, 4, 8, 8)
    with pytest.raises(ValueError, match="student_feats must have num_levels=1 maps, got 2"):
        loss([feat, feat], [feat, feat])
    with pytest.raises(
        ValueError, match=r"level 0 .* \(2, 3, 8, 8\) and \(2, 4, 8, 8\).*ConvAlign\(student_channels=3"
    ):
        loss(feat[:, :3], feat)
    with pytest.raises(ValueError, match="must have 4 channels, got 3"):
        loss(feat[:, :3], feat[:, :3])
    with pytest.raises(ValueError, match="masks must have 10 or 4 entries for depth=3, got 5"):
        freekd_loss(feat, feat, [torch.ones(1, 1, 1, 1)] * 5)
    with pytest.raises(ValueError, match=r"masks\[1\] must be .* positions \(4, 4\), got shape \(1, 1, 1, 1\)"):
        freekd_loss(feat, feat, [torch.ones(1, 1, 1, 1)] * 4)
    with pytest.raises(ValueError, match=r"channel_weights must be \(N or 1, C\) = \(2, 4\), got \(2, 3\)"):
        freekd_loss(feat, feat, channel_weights=torch.ones(2, 3))
    with pytest.raises(ValueError, match="teacher must have 3 channels, got 4"):
        freekd_loss(feat, feat, FrequencyPrompt(3))
    with pytest.raises(ValueError, match="a prompt of depth=3 and wavelet='haar', got depth=2 and wavelet='db2'"):
        freekd_loss(feat, feat, FrequencyPrompt(4, depth=2, wavelet="db2"))
