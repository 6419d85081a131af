"""MGD: the teacher's map made from a masked student map."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from freqkd.align import ConvAlign
from freqkd.losses import MGDLoss, mgd_loss
from freqkd.losses.mgd import GenerationBlock, keep_mask


def masked(feat: torch.Tensor) -> torch.Tensor:
    """A mask that keeps every other position."""
    n, _, h, w = feat.shape
    return (torch.arange(n * h * w) % 2 == 0).reshape(n, 1, h, w)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_equals_the_released_program(logit_case, seed: int) -> None:
    case, _ = logit_case("mgd_official", f"s{seed}")
    student, teacher = case["y_s"].requires_grad_(), case["y_t"]
    keep = keep_mask(case["rand"], float(case["lambda"]))
    torch.testing.assert_close(keep.double(), case["keep_mask"].double(), rtol=0, atol=0)
    loss = MGDLoss(teacher.shape[1], 1, loss_weight=float(case["alpha"])).double()
    state = {key: value for key, value in case.items() if key.startswith("param.generation.")}
    loss.blocks[0].load_state_dict({key.removeprefix("param.generation."): value for key, value in state.items()})
    wanted = {f"generation.{key}": value for key, value in loss.blocks[0].named_parameters()}
    students = [student]
    if "param.align.weight" in case:
        align = ConvAlign(student.shape[1], teacher.shape[1]).double()
        align.layers[0].load_state_dict({key: case[f"param.align.{key}"] for key in ("weight", "bias")})
        wanted.update({f"align.{key}": value for key, value in align.layers[0].named_parameters()})
        students, _ = align(student, teacher)
    value = loss(students, teacher, keep=keep)
    torch.testing.assert_close(value, case["loss"], rtol=1e-5, atol=1e-7)
    assert set(wanted) == {key.removeprefix("grad.") for key in case if key.startswith("grad.")}
    grads = torch.autograd.grad(value, [student, *wanted.values()])
    for name, grad in zip(["grad_s", *(f"grad.{key}" for key in wanted)], grads):
        torch.testing.assert_close(grad, case[name], rtol=1e-5, atol=1e-7)
    single = loss.float()([x.detach().float() for x in students], teacher.float(), keep=keep)
    torch.testing.assert_close(single.double(), case["loss"], rtol=2e-4, atol=0)


def test_by_hand() -> None:
    student, teacher = torch.tensor([[[[1.0, 2.0, 3.0]]]]), torch.tensor([[[[2.0, 0.0, 1.0]]]])
    keep = torch.tensor([[[[True, False, True]]]])
    assert mgd_loss(student, teacher, lambda x: 2 * x, keep=keep).item() == 0 + 0 + (6 - 1) ** 2
    twice = [torch.cat([x, x]) for x in (student, teacher, keep)]
    assert mgd_loss(twice[0], twice[1], lambda x: 2 * x, keep=twice[2]).item() == 25  # per image
    both = mgd_loss([student] * 2, [teacher] * 2, [lambda x: 2 * x, lambda x: x], keep=[keep, keep])
    assert both.item() == 25 + (1 + 0 + 4)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.65, 1.0])
def test_the_share_of_masked_positions(share: float) -> None:
    seen = []
    feat = torch.ones(4, 3, 50, 51)
    mgd_loss(feat, feat, lambda x: seen.append(x) or x, masked_share=share)
    (masks,) = seen
    assert masks.unique().tolist() in ([0.0, 1.0], [0.0], [1.0])
    torch.testing.assert_close(masks, masks[:, :1].expand_as(masks), rtol=0, atol=0)  # all channels alike
    assert 1 - masks.mean().item() == pytest.approx(share, abs=0.02)
    assert share in (0.0, 1.0) or not torch.equal(masks[0], masks[1])  # every image its own


def test_a_generator_repeats_the_masks() -> None:
    student, teacher = torch.randn(2, 1, 4, 7, 9)
    loss = MGDLoss(4, 1)
    values = [loss(student, teacher, generator=torch.Generator().manual_seed(seed)).item() for seed in (3, 3, 4)]
    assert values[0] == values[1] != values[2]
    drawn = keep_mask(torch.rand((1, 1, 7, 9), generator=torch.Generator().manual_seed(3)), 0.65)
    assert loss(student, teacher, keep=drawn).item() == values[0]


def test_module_and_function_are_one() -> None:
    students = [torch.randn(2, 4, 5, 7), torch.randn(2, 6, 3, 4)]
    teachers = [torch.randn_like(x) for x in students]
    keep = [masked(x) for x in students]
    loss = MGDLoss([4, 6], 2, loss_weight=0.5)
    expected = 0.5 * mgd_loss(students, teachers, list(loss.blocks), keep=keep)
    torch.testing.assert_close(loss(students, teachers, keep=keep), expected)
    assert MGDLoss(4, 1).loss_weight == 2e-5


def test_zero_where_the_made_map_is_the_teachers() -> None:
    student, keep = torch.randn(1, 3, 4, 5), masked(torch.ones(1, 1, 4, 5))
    assert mgd_loss(student, student * keep, nn.Identity(), keep=keep).item() == 0
    assert mgd_loss(student, student, nn.Identity(), keep=keep).item() > 0


def test_gradients() -> None:
    student, teacher = torch.randn(2, 1, 2, 3, 4, dtype=torch.float64)
    block, teacher = GenerationBlock(2).double(), teacher.requires_grad_()
    keep = masked(student)
    assert torch.autograd.gradcheck(lambda s: mgd_loss(s, teacher, block, keep=keep), student.requires_grad_())
    mgd_loss(student, teacher, block, keep=keep).backward()
    assert teacher.grad is None
    assert all(parameter.grad.norm() > 0 for parameter in block.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [True, False])
def test_half_precision(dtype: torch.dtype, autocast: bool) -> None:
    student, teacher = (torch.randn(2, 4, 7, 9).mul(300).to(dtype) for _ in range(2))  # squares overflow float16
    loss, keep = MGDLoss(4, 1), masked(student)
    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        value = loss(student.requires_grad_(), teacher, keep=keep)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(student.float(), teacher.float(), keep=keep), rtol=0.02, atol=0)
    value.backward()
    for part in (student, *loss.parameters()):
        assert part.grad.isfinite().all()
        assert part.grad.norm() > 0


def test_wrong_input() -> None:
    feat, loss = torch.randn(1, 3, 4, 4), MGDLoss(3, 2)
    with pytest.raises(ValueError, match="must have num_levels=2 maps, got 1"):
        loss(feat, feat)
    with pytest.raises(ValueError, match=r"level 0 .*ConvAlign\(student_channels=2, teacher_channels=3\)"):
        loss([feat[:, :2], feat], [feat, feat])
    with pytest.raises(ValueError, match=r"student_feats\[1\] must have 3 channels, got 2"):
        loss([feat, feat[:, :2]], [feat, feat[:, :2]])
    with pytest.raises(ValueError, match="keep must have one entry for each of the 2 maps, got 1"):
        loss([feat, feat], [feat, feat], keep=masked(feat))
    with pytest.raises(
        ValueError, match=r"keep\[0\] must have shape \(N, 1, H, W\) = \(1, 1, 4, 4\), got \(1, 3, 4, 4\)"
    ):
        mgd_loss(feat, feat, nn.Identity(), keep=torch.ones(1, 3, 4, 4))
    with pytest.raises(ValueError, match="generate must have one entry for each of the 1 maps, got 2"):
        mgd_loss(feat, feat, [nn.Identity(), nn.Identity()])
    with pytest.raises(ValueError, match="features of level 0, generated, must have the same shape"):
        mgd_loss(feat, feat, lambda x: x[:, :2])
    for share, rule in ((-0.1, "at least 0"), (1.5, "at most 1")):
        with pytest.raises(ValueError, match=f"masked_share must be {rule}.*, got {share}"):
            MGDLoss(3, 1, masked_share=share)
    with pytest.raises(ValueError, match="channels must be a number or one per level, 2 of them, got 3"):
        MGDLoss([1, 2, 3], 2)
