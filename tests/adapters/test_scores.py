"""Class scores as weights of positions, and the loss that takes them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from mmengine.registry import DefaultScope
from small_two_stage import held, masked_batch, two_stage

from freqkd.adapters.scores import ScoreMaps
from freqkd.losses import FreeKDLoss, freekd_loss
from freqkd.models import Distiller


def batch(student, teacher):
    return SimpleNamespace(student_feats={"head": student}, teacher_feats={"head": teacher})


@pytest.fixture
def maps():
    torch.manual_seed(0)
    sizes = [(8, 12), (4, 6), (2, 3)]
    feats = [[torch.randn(2, 5, *size) for size in sizes] for _ in range(2)]
    logits = [[torch.randn(2, 3 * 4, *size) for size in sizes] for _ in range(2)]  # three anchors, four classes
    return feats, logits


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("weight", ["teacher", "difference"])
def test_the_largest_score_of_anchors_and_classes(maps, activation, weight):
    (student, teacher), (own, other) = maps
    adapter = ScoreMaps("head", 4, activation, weight)
    weights = adapter(student, teacher, batch(own, other))["weight_maps"]
    for place, (level, mine) in enumerate(zip(other, own)):
        found = weights[place]
        assert found.shape == (2, 1, *level.shape[2:])
        for image, row, column in ((0, 0, 0), (1, 1, 2)):
            kind = torch.sigmoid if activation == "sigmoid" else lambda x: x.softmax(-1)
            scores, mine_ = (kind(x[image, :, row, column].view(3, 4)) for x in (level, mine))
            wanted = scores.max() if weight == "teacher" else (scores - mine_).abs().max()
            assert found[image, 0, row, column] == pytest.approx(wanted.item())
    assert adapter.teacher_taps == ("head",)
    assert adapter.student_taps == (("head",) if weight == "difference" else ())


def test_levels_and_one_map_for_all(maps):
    (student, teacher), (own, other) = maps
    some = ScoreMaps("head", 4, levels=(1, 2))(student[1:], teacher[1:], batch(own, other))["weight_maps"]
    assert torch.equal(some[0], ScoreMaps("head", 4)(student, teacher, batch(own, other))["weight_maps"][1])
    one = ScoreMaps("head", 4)(student, teacher, batch(own[:1], other[:1]))["weight_maps"]
    assert len(one) == 3
    assert torch.equal(one[0], one[2])
    with pytest.raises(ValueError, match="levels must name one of the 3 maps of 'head' for each of the term's 1 maps"):
        ScoreMaps("head", 4, levels=(0, 3))(student[:1], teacher[:1], batch(own, other))


def test_the_loss_takes_them_level_by_level_without_a_gradient(maps):
    (student, teacher), (own, other) = maps
    student, own = ([x.requires_grad_() for x in one] for one in (student, own))
    options = ScoreMaps("head", 4, weight="difference")(student, teacher, batch(own, other))
    loss = FreeKDLoss(preset="details", depth=1)(**options)
    wanted = sum(
        freekd_loss(s, t, norm="l2", band_weights="details", combine="none", weight_map=w, depth=1)
        for s, t, w in zip(student, teacher, options["weight_maps"])
    )
    assert loss.item() == pytest.approx(wanted.item())
    loss.backward()
    assert all(x.grad is not None for x in student)
    assert all(x.grad is None for x in own)
    ones = [torch.ones(2, 1, *s.shape[2:]) for s in student]
    plain = FreeKDLoss(preset="details", depth=1)
    assert plain(student, teacher, ones).item() == pytest.approx(plain(student, teacher).item(), rel=1e-5)


@pytest.fixture
def two_stage_term(whole_networks, tmp_path):
    """Return `two_stage_term(head)`: a Mask R-CNN that learns from another one, weighted by the scores of a head."""

    def make(head):
        taught = held(two_stage("mask"), tmp_path)
        torch.manual_seed(0)
        adapter = dict(type="freqkd.ScoreMaps", head=head)
        term = dict(student_tap="neck", adapter=adapter, loss=dict(type="freqkd.WeightedMSELoss"))
        with DefaultScope.overwrite_default_scope("mmdet"):
            model = Distiller(two_stage("mask"), taught, dict(loss_feature=term))
        model.init_weights()
        return model.train()

    return make


def test_the_box_head_of_two_stages_has_no_score_at_a_position(two_stage_term):
    words = "whose scores are of sampled proposals; take the head of the proposals, e.g. head='rpn_head.rpn_cls'"
    with pytest.raises(ValueError, match=words):
        two_stage_term("roi_head.bbox_head.fc_cls")(*masked_batch(), mode="loss")


def test_the_head_of_their_proposals_has_its_objectness(two_stage_term):
    model, (images, samples) = two_stage_term("rpn_head.rpn_cls"), masked_batch()
    loss = model(images, samples, mode="loss")["distill.loss_feature"]
    with torch.no_grad():
        teacher, student = (network.extract_feat(images) for network in (model.teacher.model, model.student))
        objectness = [x.sigmoid().amax(1, keepdim=True) for x in model.teacher.model.rpn_head(teacher)[0]]
    expected = sum(
        (w * (s - t).square().mean(1, keepdim=True)).sum() / w.sum() for s, t, w in zip(student, teacher, objectness)
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_queries_have_no_score_at_a_position():
    head = torch.nn.ModuleDict(dict(loss_cls=torch.nn.Identity()))
    network = torch.nn.ModuleDict(dict(bbox_head=head))
    network.forward_transformer = None
    with pytest.raises(ValueError, match="whose scores are of queries; take MSELoss without weights"):
        ScoreMaps("bbox_head").check_head(network, "neck", None, "teacher")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(head="", num_classes=3), "head must be the path of a class predictor"),
        (dict(head="a", num_classes=0), "num_classes must be at least 1"),
        (dict(head="a", num_classes=3, activation="tanh"), "activation must be one of 'sigmoid', 'softmax'"),
        (dict(head="a", num_classes=3, weight="student"), "weight must be one of 'teacher', 'difference'"),
        (dict(head="a", num_classes=3, levels=()), "levels"),
    ],
)
def test_wrong_arguments(options, words):
    with pytest.raises(ValueError, match=words):
        ScoreMaps(**options)
