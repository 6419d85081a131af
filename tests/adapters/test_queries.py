"""Queries of the same object are matched, in a DETR and a DINO of mmdet."""

import sys
from itertools import permutations
from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope
from small_transformers import build, detr

import freqkd.registry  # noqa: F401
from freqkd.adapters.queries import QueryLogits, corners
from freqkd.losses import box_iou_loss, kd_loss
from freqkd.models import Distiller
from freqkd.utils.compat import read_config

pytestmark = pytest.mark.usefixtures("whole_networks")

ROOT = Path(__file__).resolve().parent.parent.parent
KL = dict(type="freqkd.LogitLoss", softening=dict(type="fixed", tau=1.0), divergence="kl")
FOCAL = dict(type="freqkd.LogitLoss", divergence="quality_focal", activation="sigmoid")


def distiller(folder, kind, teacher=None, student=None, loss=None, **options):
    teacher = teacher or detr(kind)
    torch.manual_seed(1)
    torch.save(dict(state_dict=build(teacher).state_dict()), folder / "teacher.pth")
    held = dict(config=dict(model=teacher, default_scope="mmdet"), checkpoint=str(folder / "teacher.pth"))
    torch.manual_seed(0)
    loss = loss or (KL if kind == "detr" else FOCAL)
    term = dict(student_tap="bbox_head", adapter=dict(type="freqkd.QueryLogits", **options), loss=loss)
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = Distiller(student or detr(kind), held, dict(loss_query=term))
    model.init_weights()
    return model.train()


@pytest.fixture
def spy(watch):
    return watch(QueryLogits)


def predictions(queries=7, classes=4):
    torch.manual_seed(3)
    return 3 * torch.randn(queries, classes), torch.rand(queries, 4) * 0.3 + 0.3


@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("costs", [{}, dict(class_cost=0.0), dict(box_cost=0.0, iou_cost=0.0)])
def test_a_shuffled_teacher_is_found_again(sigmoid, costs):
    cls, box = predictions()
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    rows, columns = QueryLogits(**costs).match(cls, box, cls[order], box[order], sigmoid)
    assert rows.tolist() == list(range(7))
    assert order[columns].tolist() == rows.tolist()


def test_the_assignment_is_the_cheapest_of_all():
    (cls, box), (other, places) = predictions(4), predictions(4)
    other, places = other.flip(0) + torch.randn(4, 4), places.roll(1, 0) + 0.02 * torch.rand(4, 4)
    p, q = cls.softmax(1), other.softmax(1)

    def price(i, j):
        giou = box_iou_loss(corners(box[i])[None], corners(places[j])[None])
        return (p[i] - q[j]).abs().sum() + 5 * (box[i] - places[j]).abs().sum() + 2 * giou

    def total(order):
        return float(sum(price(i, j) for i, j in enumerate(order)))

    best = min(permutations(range(4)), key=total)
    rows, columns = QueryLogits().match(cls, box, other, places, False)
    assert rows.tolist() == [0, 1, 2, 3]
    assert tuple(columns.tolist()) == best


def test_surplus_queries_stay_out_and_nonfinite_ones_do_not_stop_it():
    cls, box = predictions(7)
    rows, columns = QueryLogits().match(cls[:3], box[:3], cls, box, False)
    assert (rows.tolist(), columns.tolist()) == ([0, 1, 2], [0, 1, 2])
    rows, columns = QueryLogits().match(cls, box, cls[:3], box[:3], False)
    assert (rows.tolist(), columns.tolist()) == ([0, 1, 2], [0, 1, 2])
    rows, columns = QueryLogits().match(cls * float("nan"), box, cls, box, False)
    assert sorted(columns.tolist()) == list(range(7))


@pytest.mark.parametrize("kind", ["detr", "dino"])
def test_a_term_compares_matched_queries_and_teaches_the_student_alone(tmp_path, batch, spy, kind):
    model = distiller(tmp_path, kind, layers=2)
    losses = model(*batch, mode="loss")
    found, read = spy[0]
    assert found["student"].shape == found["teacher"].shape == (2 * 2 * 6, 4 if kind == "detr" else 3)
    if kind == "dino":  # denoising queries stand in front and are left out
        assert read.student_feats["bbox_head"][0].shape[2] > 6
    with torch.no_grad():  # the teacher's rows are its answers, in some order
        answers = model.teacher.model(batch[0], batch[1], mode="tensor")[0]
    for layer, image in ((0, 0), (0, 1), (1, 0), (1, 1)):
        block = 2 * layer + image
        rows = found["teacher"][6 * block : 6 * block + 6]
        torch.testing.assert_close(rows.sort(0).values, answers[layer, image].sort(0).values)
        mine = read.student_feats["bbox_head"][0][layer, image, -6:]
        torch.testing.assert_close(found["student"][6 * block : 6 * block + 6], mine)
    loss = losses["distill.loss_query"]
    if kind == "detr":
        torch.testing.assert_close(loss, kd_loss(found["student"], found["teacher"], tau=1.0))
    assert loss > 0
    loss.backward()
    assert model.student.backbone.conv1.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.teacher.model.parameters())


def test_a_student_that_is_its_teacher_has_nothing_to_learn(tmp_path, batch):
    for options in ({}, dict(matching="identity")):
        model = distiller(tmp_path, "detr", **options)
        model.student.load_state_dict(model.teacher.model.state_dict())
        model.eval()
        assert model(*batch, mode="loss")["distill.loss_query"].item() == pytest.approx(0, abs=1e-6)


def test_labels_are_those_of_the_students_own_assigner(tmp_path, batch, spy):
    loss = dict(type="freqkd.LogitLoss", softening=dict(type="fixed", tau=1.0), divergence=dict(type="dkd", beta=1.0))
    model = distiller(tmp_path, "detr", target=True, loss=loss)
    losses = model(*batch, mode="loss")
    labels = spy[0][0]["target"].reshape(2, 6)
    assert [sorted(one.tolist()) for one in labels] == [[0, 2, 3, 3, 3, 3]] * 2  # 3: no object
    entropy = torch.nn.functional.cross_entropy(
        spy[0][0]["student"], labels.flatten(), weight=model.student.bbox_head.loss_cls.class_weight
    )
    torch.testing.assert_close(losses["loss_cls"], entropy)
    assert torch.isfinite(losses["distill.loss_query"])


def test_unequal_numbers_of_queries_match_but_are_not_identical(tmp_path, batch, spy):
    model = distiller(tmp_path, "detr", teacher=detr("detr", queries=9))
    model(*batch, mode="loss")
    assert len(spy[0][0]["student"]) == 2 * 6
    with pytest.raises(ValueError, match="matching='identity' needs equal numbers of queries, got 6 and 9"):
        distiller(tmp_path, "detr", teacher=detr("detr", queries=9), matching="identity")(*batch, mode="loss")


def test_what_does_not_fit_is_named(tmp_path, batch, monkeypatch):
    with pytest.raises(ValueError, match="matching must be one of"):
        QueryLogits(matching="hungary")
    with pytest.raises(ValueError, match="layers must be at least 1"):
        QueryLogits(layers=0)
    with pytest.raises(ValueError, match="box_cost must be at least 0"):
        QueryLogits(box_cost=-1)
    model = distiller(tmp_path, "detr", layers=3)
    model.rehearse()  # a blank image has no samples to match: nothing to rehearse, nothing raised
    with pytest.raises(ValueError, match=r"layers must be at most .* 2 in the student and 2 in the teacher, got 3"):
        model(*batch, mode="loss")
    with pytest.raises(ValueError, match=r"must return class scores \(layers, N, Q, C\)"):
        QueryLogits._outputs([torch.zeros(1, 3, 4, 4)], model, "student")
    cls, box = predictions()
    with pytest.raises(ValueError, match="the same classes, got 4 and 3"):
        QueryLogits().match(cls, box, cls[:, :3], box, False)
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ImportError, match="pip install scipy"):
        QueryLogits().match(cls, box, cls, box, False)


def test_a_teacher_without_a_transformer_is_named_before_training(tmp_path):
    retina = read_config(ROOT / "configs/_base_/models/retinanet_r18.py").model
    with pytest.raises(
        ValueError, match=r"terms.loss_query: the teacher must be of mmdet's DETR family.*got RetinaNet"
    ):
        distiller(tmp_path, "detr", teacher=retina)


@pytest.mark.parametrize("kind", ["detr", "dino"])
def test_classes_that_both_have_are_matched_and_compared(tmp_path, batch, spy, kind):
    """The teacher has five classes; those of a softmax head keep "no object", the last entry."""
    other = detr(kind)
    other.bbox_head.num_classes = 5
    labelled = dict(KL, divergence=dict(type="dkd", beta=1.0)) if kind == "detr" else None
    model = distiller(tmp_path, kind, teacher=other, classes=[(2, 4), (0, 1)], target=True, loss=labelled)
    losses = model(*batch, mode="loss")
    found, read = spy[0]
    kept, taught = ([2, 0, 3], [4, 1, 5]) if kind == "detr" else ([2, 0], [4, 1])
    mine = read.student_feats["bbox_head"][0][-1, :, -6:].flatten(0, 1)
    torch.testing.assert_close(found["student"], mine[:, kept])
    with torch.no_grad():
        answers = model.teacher.model(batch[0], batch[1], mode="tensor")[0][-1]
    rows = found["teacher"].unflatten(0, (2, 6))
    torch.testing.assert_close(rows.sort(1).values, answers[..., taught].sort(1).values)
    if kind == "detr":
        assert [sorted(one) for one in found["target"].reshape(2, 6).tolist()] == [[0, 1, 2, 2, 2, 2]] * 2  # 2: neither
    assert losses["distill.loss_query"] > 0
    with pytest.raises(ValueError, match=r"same classes, got \d and \d class scores; .*classes='shared'"):
        distiller(tmp_path, kind, teacher=other)(*batch, mode="loss")
