"""FGD: four parts, from boxes, attentions and global contexts."""

from __future__ import annotations

import pytest
import torch

from freqkd.align import ConvAlign
from freqkd.losses import FGDLoss, fgd_loss, fgd_terms
from freqkd.losses.fgd import GlobalContext, box_weights, feature_attention

PARTS = {"foreground": "fg", "background": "bg", "attention": "mask", "relation": "rela"}
NONE = torch.zeros(0, 4)
BOXES = [torch.tensor([[8.0, 8.0, 40.0, 30.0], [16.0, 4.0, 30.0, 60.0]]), NONE]
SIZES = [(64, 72), (64, 72)]


def ground_truth(case: dict[str, torch.Tensor]) -> tuple[list[torch.Tensor], list[tuple[int, int]]]:
    images = range(len(case["y_s"]))
    sizes = [tuple(int(length) for length in case[f"img_shape{image}"]) for image in images]
    return [case[f"boxes{image}"] for image in images], sizes


def loaded(case: dict[str, torch.Tensor]) -> FGDLoss:
    """The module with the weights of a case."""
    loss = FGDLoss(case["y_t"].shape[1], 1, tau=float(case["temp"])).double()
    for side, block in (("s", loss.student_contexts[0]), ("t", loss.teacher_contexts[0])):
        names = {"attend": f"conv_mask_{side}", "transform": f"channel_add_conv_{side}"}
        state = {}
        for key in block.state_dict():
            part, rest = key.split(".", 1)
            state[key] = case[f"param.{names[part]}.{rest}"]
        block.load_state_dict(state)
    return loss


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_equals_the_released_program(logit_case, seed: int) -> None:
    case, _ = logit_case("fgd_official", f"s{seed}")
    loss, (boxes, sizes) = loaded(case), ground_truth(case)
    student, teacher = case["y_s"].requires_grad_(), case["y_t"]
    aligned = [student]
    if "param.align.weight" in case:
        align = ConvAlign(student.shape[1], teacher.shape[1]).double()
        align.layers[0].load_state_dict({key: case[f"param.align.{key}"] for key in ("weight", "bias")})
        aligned, _ = align(student, teacher)
    contexts = [(loss.student_contexts[0], loss.teacher_contexts[0])]
    terms = fgd_terms(aligned, [teacher], boxes, sizes, contexts, tau=loss.tau)
    wanted = {name: (f"loss_{key}", f"grad_s_{key}") for name, key in PARTS.items()}
    assert set(terms) == set(wanted)
    terms["total"], wanted["total"] = loss(aligned, [teacher], boxes=boxes, image_sizes=sizes), ("loss", "grad_s")
    for name, (value, grad) in wanted.items():
        torch.testing.assert_close(terms[name], case[value], rtol=1e-5, atol=1e-7)
        (found,) = torch.autograd.grad(terms[name], student, retain_graph=True)
        torch.testing.assert_close(found, case[grad], rtol=1e-5, atol=1e-7)
    single = loss.float()([x.detach().float() for x in aligned], teacher.float(), boxes=boxes, image_sizes=sizes)
    torch.testing.assert_close(single.double(), case["loss"], rtol=2e-4, atol=0)
    for feat, side in ((aligned[0], "s"), (teacher, "t")):
        for found, key in zip(feature_attention(feat, loss.tau), "SC"):
            torch.testing.assert_close(found, case[f"{key}_{side}"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_boxes_weigh_as_in_the_released_program(logit_case, seed: int, dtype: torch.dtype) -> None:
    case, _ = logit_case("fgd_official", f"s{seed}")
    boxes, sizes = ground_truth(case)
    height, width = case["y_s"].shape[2:]
    weights = box_weights([each.to(dtype) for each in boxes], sizes, (height, width), like=case["y_s"])
    for found, key in zip(weights, ("mask_fg", "mask_bg")):
        torch.testing.assert_close(found, case[key], rtol=1e-6, atol=0)


def test_box_weights_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0.0, 15.0, 15.0], [8.0, 8.0, 8.0, 8.0], [-20.0, 24.0, -5.0, 40.0]])
    foreground, background = box_weights([boxes, NONE], [(32, 32), (32, 32)], (4, 4))
    # scale 1 / 8: cells 0 to 2 both ways; one cell (1, 1), smaller; nothing of the third box is on the map but the column
    # from floor(-2.5) to ceil(-0.625) = 0, rows 3 to 5: 4 * 3 cells
    expected = torch.zeros(4, 4)
    expected[:3, :3], expected[1, 1], expected[3, 0] = 1 / 9, 1.0, 1 / 12
    torch.testing.assert_close(foreground[0], expected)
    torch.testing.assert_close(background[0], (expected == 0) / 6.0)
    assert foreground[1].abs().sum() == 0
    torch.testing.assert_close(background[1], torch.full((4, 4), 1 / 16))


def test_a_corner_on_the_grid_stays_on_it() -> None:
    x = torch.tensor([424.0])
    assert (x / 800 * 100).floor() == 52  # in float32, the other order of the operations
    box = torch.tensor([[424.0, 0.0, 440.0, 8.0]])
    columns = box_weights([box], [(8, 800)], (1, 100))[0][0, 0].nonzero().flatten()
    assert columns.tolist() == [53, 54, 55]


def test_boxes_that_fill_the_map_leave_no_background() -> None:
    full = torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    foreground, background = box_weights([full], [(16, 16)], (4, 4))
    torch.testing.assert_close(foreground, torch.full((1, 4, 4), 1 / 25))  # row and column 4 lie past the edge
    assert background.abs().sum() == 0


def test_temperature_and_sums_of_the_attentions() -> None:
    feat = torch.randn(2, 6, 5, 7, dtype=torch.float64)
    for tau in (0.1, 0.5, 2.0):
        spatial, channel = feature_attention(feat, tau)
        torch.testing.assert_close(spatial.mean((1, 2)), torch.ones(2, dtype=torch.float64))
        torch.testing.assert_close(channel.mean(1), torch.ones(2, dtype=torch.float64))
        sharp = feature_attention(feat / tau, 1.0)
        torch.testing.assert_close((spatial, channel), sharp)
    assert feature_attention(feat, 0.1)[0].max() > feature_attention(feat, 2.0)[0].max()


def test_parts_without_contexts_by_hand() -> None:
    student, teacher = torch.zeros(2, 1, 2, 2), torch.tensor([2.0, 0.0]).reshape(2, 1, 1, 1).expand(2, 1, 2, 2)
    # flat maps: attentions are 1; the box covers both rows of column 1, and a column past the edge
    boxes = [torch.tensor([[4.0, 0.0, 8.0, 4.0]]), NONE]
    terms = fgd_terms(student, teacher, boxes, [(8, 8)] * 2, tau=0.7)
    assert terms["foreground"].item() == pytest.approx(2 * 4 / 4 / 2)
    assert terms["background"].item() == pytest.approx(4 / 2)
    assert terms["attention"].item() == 0
    assert terms["relation"].item() == pytest.approx(16 / 2)
    value = fgd_loss(
        student, teacher, boxes, [(8, 8)] * 2, foreground_weight=1, background_weight=10, relation_weight=100
    )
    assert value.item() == pytest.approx(1 + 20 + 800)


def test_a_fresh_context_adds_nothing_and_a_trained_one_a_vector_per_image() -> None:
    block, feat = GlobalContext(6), torch.randn(2, 6, 5, 7)
    assert block(feat).abs().sum() == 0
    torch.nn.init.normal_(block.transform[3].weight)
    added = block(feat)
    assert added.shape == (2, 6, 1, 1)
    shuffled = feat.flatten(2)[..., torch.randperm(35)].reshape(feat.shape)
    torch.testing.assert_close(block(shuffled), added, rtol=1e-4, atol=1e-5)  # positions have no order


def test_levels_add_up_and_module_and_function_are_one() -> None:
    students = [torch.randn(2, 4, 8, 9), torch.randn(2, 6, 3, 5)]
    teachers = [torch.randn_like(x) for x in students]
    options = dict(foreground_weight=0.1, background_weight=0.2, attention_weight=0.3, relation_weight=0.4)
    loss = FGDLoss([4, 6], 2, tau=0.8, loss_weight=3.0, **options)
    for block in (*loss.student_contexts, *loss.teacher_contexts):
        torch.nn.init.normal_(block.transform[3].weight)
    contexts = list(zip(loss.student_contexts, loss.teacher_contexts))
    each = [
        fgd_loss(s, t, BOXES, SIZES, [pair], tau=0.8, **options) for s, t, pair in zip(students, teachers, contexts)
    ]
    torch.testing.assert_close(loss(students, teachers, boxes=BOXES, image_sizes=SIZES), 3 * (each[0] + each[1]))
    same = FGDLoss([4, 6], 2)(students, students, boxes=BOXES, image_sizes=SIZES)
    assert same.item() == 0


def test_gradients() -> None:
    student, teacher = torch.randn(2, 2, 3, 4, 5, dtype=torch.float64)
    blocks = [(GlobalContext(3).double(), GlobalContext(3).double())]
    for block in blocks[0]:
        torch.nn.init.normal_(block.transform[3].weight)

    def loss(s: torch.Tensor) -> torch.Tensor:
        return sum(fgd_terms(s, teacher, BOXES, SIZES, blocks).values())

    teacher.requires_grad_()
    assert torch.autograd.gradcheck(loss, student.requires_grad_())
    loss(student).backward()
    assert teacher.grad is None
    assert all(parameter.grad is not None for block in blocks[0] for parameter in block.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    student, teacher = (torch.randn(2, 4, 7, 9).mul(300).to(dtype) for _ in range(2))  # squares overflow float16
    loss = FGDLoss(4, 1, tau=100.0)
    for block in (*loss.student_contexts, *loss.teacher_contexts):
        torch.nn.init.normal_(block.transform[3].weight)
    student.requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        value = loss(student, teacher, boxes=BOXES, image_sizes=SIZES)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(student.float(), teacher.float(), boxes=BOXES, image_sizes=SIZES))
    value.backward()
    for part in (student, *loss.parameters()):
        assert part.grad.isfinite().all()
    assert student.grad.norm() > 0


@pytest.mark.parametrize("shape", [(2, 1, 1, 1), (2, 2, 1, 3)])
def test_small_flat_and_unlabelled_maps_stay_finite(shape: tuple[int, ...]) -> None:
    loss = FGDLoss(shape[1], 1)
    for boxes in (BOXES, [NONE, NONE]):
        student = torch.zeros(shape, requires_grad=True)
        value = loss(student, torch.ones(shape), boxes=boxes, image_sizes=SIZES)
        (grad,) = torch.autograd.grad(value, student)
        assert value.isfinite()
        assert grad.isfinite().all()


def test_wrong_input() -> None:
    feat, loss = torch.randn(2, 3, 4, 4), FGDLoss(3, 1)
    given = dict(boxes=BOXES, image_sizes=SIZES)
    with pytest.raises(ValueError, match="must have num_levels=1 maps, got 2"):
        loss([feat, feat], [feat, feat], **given)
    with pytest.raises(ValueError, match=r"level 0 .*ConvAlign\(student_channels=2, teacher_channels=3\)"):
        loss(feat[:, :2], feat, **given)
    with pytest.raises(ValueError, match=r"student_feats\[0\] must have 3 channels, got 2"):
        loss(feat[:, :2], feat[:, :2], **given)
    with pytest.raises(ValueError, match="boxes must have one entry for each of the 2 images, got 1"):
        loss(feat, feat, boxes=BOXES[:1], image_sizes=SIZES)
    with pytest.raises(ValueError, match="boxes and image_sizes must have one entry per image each, got 2 and 1"):
        loss(feat, feat, boxes=BOXES, image_sizes=SIZES[:1])
    with pytest.raises(ValueError, match=r"boxes\[1\] must have shape \(B, 4\), x1, y1, x2, y2, got \(1, 5\)"):
        loss(feat, feat, boxes=[NONE, torch.ones(1, 5)], image_sizes=SIZES)
    with pytest.raises(ValueError, match=r"image_sizes\[0\] must be \(height, width\), both above 0, got \(0, 4\)"):
        loss(feat, feat, boxes=BOXES, image_sizes=[(0, 4), (4, 4)])
    with pytest.raises(ValueError, match="contexts must have one pair for each of the 1 maps, got 2"):
        fgd_terms(feat, feat, BOXES, SIZES, [(GlobalContext(3), GlobalContext(3))] * 2)
    for wrong in (lambda: FGDLoss(3, 1, tau=0), lambda: fgd_terms(feat, feat, BOXES, SIZES, tau=0)):
        with pytest.raises(ValueError, match="tau must be above 0, got 0"):
            wrong()
