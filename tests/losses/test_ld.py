"""Distillation of boxes (LD, BCKD, CrossKD) and of two views (MLKD)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from freqkd.losses.bckd import BCKDLoss, bckd_terms
from freqkd.losses.boxes import box_iou_loss, distribution_boxes, mean_by_weight, quality_focal_loss
from freqkd.losses.crosskd import CrossKDBoxLoss, CrossKDLoss, align_statistics, crosskd_box_terms, crosskd_terms
from freqkd.losses.ld import LDLoss, ld_loss, ld_terms, valuable_region
from freqkd.losses.logits.methods import kd_loss
from freqkd.losses.mlkd import MLKDLoss, mlkd_terms

torch.set_num_threads(1)
SIZES = [(4, 3), (2, 2)]
HEADS = r"both heads need the same classes \(or bins\) and map sizes$"
WEIGHTS = "label_weights must have one entry for each"


def _head(dtype: torch.dtype = torch.float64, classes: int = 3, bins: int = 5) -> dict[str, list[Tensor]]:
    """Return two levels of class and box maps of both networks, in the order the terms take them, and labels."""
    generator = torch.Generator().manual_seed(0)
    head = {}
    for name, channels in (("cls_s", classes), ("reg_s", 4 * bins), ("cls_t", classes), ("reg_t", 4 * bins)):
        head[name] = [torch.randn(2, channels, *size, generator=generator).to(dtype) for size in SIZES]
    head["labels"] = [torch.randint(classes + 2, (2, h * w), generator=generator).clamp(max=classes) for h, w in SIZES]
    for level in (*head["cls_s"], *head["reg_s"]):
        level.requires_grad_()
    return head


def _maps(head: dict[str, list[Tensor]]) -> list[list[Tensor]]:
    return [head[name] for name in ("cls_s", "reg_s", "cls_t", "reg_t")]


def test_ld_by_hand() -> None:
    head = _head()
    student, teacher = head["reg_s"][0], head["reg_t"][0]
    weight = torch.arange(24.0).double()
    total = torch.zeros((), dtype=torch.float64)
    for n in range(2):
        for y in range(4):
            for x in range(3):
                p, q = (z[n, :, y, x].view(4, 5).div(3).softmax(1) for z in (teacher, student))
                total = total + weight[n * 12 + y * 3 + x] * (p * (p / q).log()).sum() / 4
    torch.testing.assert_close(ld_loss(student, teacher, weight, tau=3.0, bins="sum", avg_factor=1.0), 9 * total)
    torch.testing.assert_close(ld_loss(student, teacher, weight, tau=3.0), 9 * total / 5 / weight.sum())
    assert ld_loss(student, teacher, 0 * weight) == 0
    assert torch.autograd.gradcheck(lambda s: ld_loss(s, teacher, weight), (student,))


def test_terms_of_levels_add_up() -> None:
    head = _head()
    labels = head["labels"]
    whole = ld_terms(*_maps(head), labels, labels)
    each = [ld_terms(*[m[i] for m in _maps(head)], labels[i], labels[i]) for i in range(2)]
    for name, value in whole.items():
        torch.testing.assert_close(value, each[0][name] + each[1][name])
    for terms in (bckd_terms, crosskd_terms):
        whole = terms(*_maps(head), avg_factor=5.0)
        each = [terms(*[m[i] for m in _maps(head)], avg_factor=5.0) for i in range(2)]
        torch.testing.assert_close(whole["loss_cls_kd"], each[0]["loss_cls_kd"] + each[1]["loss_cls_kd"])


def test_modules_are_the_sums() -> None:
    head = _head()
    pairs: list[tuple[Tensor, dict[str, Tensor]]] = [
        (
            LDLoss(tau=4.0, loss_weight=2.0)(*_maps(head), head["labels"]),
            ld_terms(*_maps(head), head["labels"], tau=4.0),
        ),
        (BCKDLoss(loss_weight=2.0)(*_maps(head), avg_factor=5.0), bckd_terms(*_maps(head), avg_factor=5.0)),
        (CrossKDLoss(loss_weight=2.0)(*_maps(head), avg_factor=5.0), crosskd_terms(*_maps(head), avg_factor=5.0)),
    ]
    for value, terms in pairs:
        torch.testing.assert_close(value, 2 * torch.stack(list(terms.values())).sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_terms_stay_finite(dtype: torch.dtype) -> None:
    """No positives, no weights, half precision, huge gaps: the released programs divide by zero or overflow here."""
    for scale in (0.0, 1.0, 1e4):
        head = _head(dtype)
        with torch.no_grad():
            for maps in _maps(head):
                for level in maps:
                    level.mul_(scale)
        background = [torch.full_like(level, 3) for level in head["labels"]]
        nothing = torch.zeros(2 * (12 + 4))
        totals = [
            LDLoss()(*_maps(head), background),
            LDLoss()(*_maps(head), head["labels"], [level.float() for level in head["labels"]]),
            BCKDLoss()(*_maps(head), avg_factor=torch.tensor(0.0)),
            CrossKDLoss()(*_maps(head), nothing, avg_factor=0.0),
            CrossKDLoss()(*_maps(head), avg_factor=100.0),
        ]
        for total in totals:
            leaves = [*head["cls_s"], *head["reg_s"]]
            grads = torch.autograd.grad(total, leaves, retain_graph=True, allow_unused=True)
            assert total.isfinite()
            assert all(g is None or g.isfinite().all() for g in grads)
        assert totals[0] == 0
        assert totals[3] == 0


def test_equal_predictions_cost_nothing() -> None:
    head = _head()
    same = [head["cls_t"], head["reg_t"], head["cls_t"], head["reg_t"]]
    for terms in (
        ld_terms(*same, head["labels"]),
        bckd_terms(*same, avg_factor=1.0),
        crosskd_terms(*same, avg_factor=1.0),
    ):
        assert all(value.abs() < 1e-9 for value in terms.values())


def test_teachers_get_no_gradient_and_weights_are_constants() -> None:
    head = _head()
    for level in (*head["cls_t"], *head["reg_t"]):
        level.requires_grad_()
    total = LDLoss(class_weight=0.0)(*_maps(head), head["labels"])
    total = total + BCKDLoss(class_weight=0.0)(*_maps(head), avg_factor=1.0)
    total.backward()
    assert all(level.grad is None for level in (*head["cls_t"], *head["reg_t"]))
    assert all(level.grad is None or (level.grad == 0).all() for level in head["cls_s"])  # they only weigh the boxes
    assert all(level.grad is not None and level.grad.abs().sum() > 0 for level in head["reg_s"])


def test_expected_boxes() -> None:
    logits = torch.full((1, 4, 5), -1e4)
    for side, distance in enumerate((1, 2, 3, 4)):
        logits[0, side, distance] = 0.0
    torch.testing.assert_close(distribution_boxes(logits.view(1, 20)), torch.tensor([[-1.0, -2.0, 3.0, 4.0]]))


def test_giou_and_iou() -> None:
    a = torch.tensor(
        [[0.0, 0, 2, 2], [0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 1, 1]], dtype=torch.float64, requires_grad=True
    )
    b = torch.tensor([[1.0, 1, 3, 3], [2, 0, 3, 1], [0, 0, 1, 1], [1, 1, 1, 1]], dtype=torch.float64)
    iou = torch.tensor([1 / 7, 0.0, 1.0])
    hull = torch.tensor([2 / 9, 1 / 3, 0.0])
    for n in range(3):
        plain, general = (box_iou_loss(a[n : n + 1], b[n : n + 1], kind=k).item() for k in ("iou", "giou"))
        assert plain == pytest.approx(1 - iou[n].item())
        assert general == pytest.approx(1 - iou[n].item() + hull[n].item())
    loss = box_iou_loss(a, b)  # empty boxes included
    loss.backward()
    assert loss.isfinite()
    assert a.grad is not None
    assert a.grad.isfinite().all()
    assert torch.autograd.gradcheck(lambda s: box_iou_loss(s, b[:1]), (a[:1].detach().requires_grad_(),))


def test_region_of_an_image_without_objects_is_empty() -> None:
    anchors = torch.rand(7, 4)
    assert (valuable_region(anchors, [4, 3], torch.zeros(0, 4)) == 0).all()
    assert valuable_region(torch.zeros(0, 4), [0], torch.zeros(1, 4)).shape == (0,)
    assert valuable_region(anchors[:1], [1], torch.rand(1, 4)).isfinite().all()  # one candidate has no deviation


def test_aligned_feature_has_the_teachers_moments() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        torch.randn(2, 3, 4, 5, generator=generator),
        3 + 2 * torch.randn(2, 3, 6, 6, generator=generator),
    )
    aligned = align_statistics(student, teacher)
    torch.testing.assert_close(aligned.mean((0, 2, 3)), teacher.mean((0, 2, 3)))
    torch.testing.assert_close(aligned.std((0, 2, 3)), teacher.std((0, 2, 3)))
    constant = align_statistics(torch.ones(1, 3, 1, 1), teacher)
    torch.testing.assert_close(constant.flatten(), teacher.mean((0, 2, 3)))
    assert align_statistics(student.bfloat16(), teacher).dtype == torch.bfloat16


def test_mlkd_of_one_temperature_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    weak, strong, teacher, other = torch.randn(4, 5, 3, generator=generator, dtype=torch.float64)
    terms = mlkd_terms(weak, strong, teacher, other, tau=2.0, taus=(), weak_taus=())
    p, q = (teacher / 2).softmax(1), (weak / 2).softmax(1)
    share, class_share = 3 / 5, 2 / 3  # of odd numbers, the median itself included
    kd = share * kd_loss(weak, teacher, tau=2.0) + kd_loss(strong, other, tau=2.0)
    torch.testing.assert_close(terms["loss_kd"], kd)
    torch.testing.assert_close(terms["loss_cc"], class_share * (p.t() @ p - q.t() @ q).square().sum() / 3)
    torch.testing.assert_close(terms["loss_bc"], share * (p @ p.t() - q @ q.t()).square().sum() / 5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(mlkd_terms(weak, strong, teacher, other), mlkd_terms(weak, strong, teacher, other))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda h: ld_loss(h["reg_s"][0], h["reg_t"][0], tau=0.0), "tau must be above 0"),
        (lambda h: ld_loss(h["reg_s"][0], h["reg_t"][0], bins="max"), "bins must be one of"),
        (lambda h: ld_loss(h["cls_s"][0], h["cls_t"][0]), "a multiple of 4 channels, got 3"),
        (lambda h: ld_loss(h["reg_s"][0], h["reg_t"][1]), "box distributions must have the same shape"),
        (lambda h: ld_loss(h["reg_s"][0], h["reg_t"][0], torch.ones(3)), "each of the 24 positions, got 3"),
        (lambda h: ld_loss(h["reg_s"][0], h["cls_t"][0]), f"got .* and .*; {HEADS}"),
        (lambda h: ld_terms(*_maps(h), h["labels"][:1]), "the same number of maps"),
        (lambda h: ld_terms(*[m[:n] for m, n in zip(_maps(h), (2, 1, 2, 2))], h["labels"]), "one, got 2 and 1"),
        (lambda h: ld_terms(*_maps(h), h["labels"], h["labels"][:1]), "one, got 2 and 1"),
        (lambda h: ld_terms(*_maps(h), h["labels"], None, h["labels"][:1]), "one, got 2 and 1"),
        (
            lambda h: ld_terms(*_maps(h), h["labels"][::-1]),
            "labels must have one entry for each of the 24 positions, got 8",
        ),
        (
            lambda h: ld_terms(*_maps(h), h["labels"], None, h["labels"][::-1]),
            f"{WEIGHTS} of the 24 positions, got 8",
        ),
        (lambda h: crosskd_terms(*_maps(h), torch.ones(3), avg_factor=1.0), f"{WEIGHTS} of the 32 positions, got 3"),
        (lambda h: bckd_terms(*_maps(h), torch.ones(1), avg_factor=1.0), f"{WEIGHTS} of the 32 positions, got 1"),
        (
            lambda h: crosskd_box_terms(*[x[0] for x in _maps(h)], torch.ones(3), avg_factor=1.0),
            f"{WEIGHTS} of the 24 positions, got 3",
        ),
        (lambda h: distribution_boxes(torch.ones(2, 6)), "a multiple of 4 channels, got 6"),
        (
            lambda h: bckd_terms(h["cls_s"], h["cls_s"], h["cls_t"], h["cls_t"], avg_factor=1.0),
            "box distributions must have a multiple of 4 channels, got 3",
        ),
        (lambda h: LDLoss(class_tau=0.0), "class_tau must be above 0"),
        (lambda h: LDLoss(ld_weight=-1.0), "ld_weight must be at least 0"),
        (lambda h: BCKDLoss(box_weight=-1.0), "box_weight must be at least 0"),
        (lambda h: CrossKDLoss(class_weight=-1.0), "class_weight must be at least 0"),
        (
            lambda h: bckd_terms(h["cls_s"], h["reg_s"][0], h["cls_t"], h["reg_t"][0], avg_factor=1.0),
            "the same positions",
        ),
        (lambda h: box_iou_loss(torch.ones(2, 4), torch.ones(2, 4), kind="diou"), "kind must be one of"),
        (lambda h: box_iou_loss(torch.ones(2, 5), torch.ones(2, 5)), r"the shape \(M, 4\)"),
        (lambda h: box_iou_loss(torch.ones(2, 4), torch.ones(3, 4)), HEADS),
        (lambda h: quality_focal_loss(h["cls_s"], h["cls_t"], beta=0.5), "beta must be 0 or at least 1"),
        (lambda h: align_statistics(h["cls_s"][0], h["reg_t"][0]), "teacher_feat must have 3 channels, got 20"),
        (lambda h: valuable_region(torch.ones(3, 4), [2], torch.ones(1, 4)), "must sum to the 3 boxes"),
        (lambda h: mlkd_terms(*[h["cls_s"][0]] * 4), r"student_weak must have the shape \(N, C\)"),
        (lambda h: mlkd_terms(*[torch.ones(2, 80)] * 2, *[torch.ones(2, 20)] * 2), rf"\(2, 20\); {HEADS}"),
        (lambda h: MLKDLoss(tau=0.0), "tau must be above 0"),
    ],
)
def test_errors_name_the_argument(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(_head())


LEVELS = "must give the same number of maps, at least one, got {} and {}; choose student_levels and teacher_levels"


@pytest.mark.parametrize(
    ("numbers", "message"),
    [  # levels of the student's classes and boxes, then of the teacher's
        ((2, 2, 1, 1), LEVELS.format(2, 1)),
        ((1, 2, 2, 2), LEVELS.format(1, 2)),
        ((2, 2, 2, 1), LEVELS.format(2, 1)),
        ((2, 1, 2, 1), "positions, got 32"),
        ((1, 2, 1, 2), "positions, got 24"),
    ],
)
@pytest.mark.parametrize(("loss", "bins"), [(BCKDLoss(), 5), (CrossKDLoss(), 5), (CrossKDBoxLoss(), 1)])
def test_other_numbers_of_levels_are_named(loss: Any, bins: int, numbers: tuple[int, ...], message: str) -> None:
    maps = [levels[:number] for levels, number in zip(_maps(_head(bins=bins)), numbers, strict=True)]
    with pytest.raises(ValueError, match=message):
        loss(*maps, avg_factor=1.0)


@pytest.mark.parametrize(
    ("student", "teacher", "positive", "message"),
    [
        (2, 1, 32, LEVELS.format(2, 1)),
        (1, 1, 32, "positions, got 32"),
        (2, 2, 24, "each of the 32 positions, got 24"),
    ],
)
def test_other_numbers_of_levels_of_centernesses_are_named(
    student: int, teacher: int, positive: int, message: str
) -> None:
    head, one = _head(bins=1), _head(classes=1)
    near, far, known = one["cls_s"][:student], one["cls_t"][:teacher], torch.ones(positive, dtype=torch.bool)
    with pytest.raises(ValueError, match=message):
        CrossKDBoxLoss()(*_maps(head), None, near, far, known, avg_factor=1.0)


def test_mean_by_weight() -> None:
    values = torch.tensor([1.0, 3.0])
    assert mean_by_weight(values, None, None) == 2
    assert mean_by_weight(values, torch.zeros(2), None) == 0
    assert mean_by_weight(values, None, 0.0) == 4


def test_one_class_is_compared_by_its_sigmoid():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, 1, 2, 2, dtype=torch.float64)
    student.requires_grad_()
    reg = torch.zeros(2, 8, 2, 2, dtype=torch.float64)
    labels = torch.tensor([[0, 1, 1, 0], [1, 1, 0, 1]])
    term = ld_terms(student, reg, teacher, reg, labels, class_tau=2.0, class_weight=10.0)["loss_kd"]
    p, q = ((x.detach() / 2).sigmoid().flatten() for x in (student, teacher))
    each = q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()
    torch.testing.assert_close(term.detach(), 10 * 4 * each[labels.flatten() == 0].mean())
    term.backward()
    assert (student.grad.flatten() != 0).tolist() == (labels.flatten() == 0).tolist()
