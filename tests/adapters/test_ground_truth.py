"""Ground-truth boxes reach losses that separate objects from background."""

from types import SimpleNamespace

import pytest
import torch

from freqkd.adapters.base import Batch
from freqkd.adapters.ground_truth import GroundTruthBoxes
from freqkd.losses import FGDLoss
from freqkd.models import DistillTerm

OBJECT = torch.tensor([[16.0, 8.0, 24.0, 16.0]])  # of a map at stride 8: column 2 to 3, row 1 to 2
NONE = torch.zeros(0, 4)


def sample(boxes, shape=(32, 32)):
    return SimpleNamespace(gt_instances=SimpleNamespace(bboxes=boxes), metainfo=dict(img_shape=shape))


def batch_of(*samples, size=(32, 64)):
    inputs = torch.zeros(len(samples), 3, *size)
    return Batch(inputs, inputs, list(samples), torch.nn.Identity(), None, {}, {})


@pytest.fixture
def maps():
    torch.manual_seed(0)
    return [torch.randn(2, 3, 4, 8, requires_grad=True)], [torch.randn(2, 3, 4, 8)]


def test_maps_pass_and_boxes_come_as_tensors(maps):
    container = SimpleNamespace(tensor=OBJECT)
    found = GroundTruthBoxes()(*maps, batch_of(sample(container), sample(NONE)))
    assert found["student_feats"] is maps[0]
    assert found["teacher_feats"] is maps[1]
    torch.testing.assert_close(found["boxes"], [OBJECT, NONE])
    assert found["image_sizes"] == [(32, 64), (32, 64)]


def test_boxes_of_mmdets_own_samples(maps):
    structures = pytest.importorskip("mmdet.structures")
    from mmdet.structures.bbox import HorizontalBoxes
    from mmengine.structures import InstanceData

    samples = []
    for boxes in (HorizontalBoxes(OBJECT), NONE):
        one = structures.DetDataSample(metainfo=dict(img_shape=(30, 60, 3)))
        one.gt_instances = InstanceData(bboxes=boxes)
        samples.append(one)
    found = GroundTruthBoxes("image")(*maps, batch_of(*samples))
    assert all(type(boxes) is torch.Tensor for boxes in found["boxes"])
    torch.testing.assert_close(found["boxes"], [OBJECT, NONE])
    assert found["image_sizes"] == [(30, 60), (30, 60)]


@pytest.mark.parametrize(("extent", "columns"), [("padded", [2, 3]), ("image", [4, 5, 6])])
def test_where_a_box_of_a_padded_image_lands(extent, columns):
    """Of 64 columns 32 are padding: a box at pixel 16 to 24 lies on columns 2 and 3 of 8, not on 4 to 6."""
    student, teacher = torch.zeros(1, 1, 4, 8, requires_grad=True), torch.ones(1, 1, 4, 8)
    loss = FGDLoss(1, 1, background_weight=0, attention_weight=0, relation_weight=0)
    term = DistillTerm(loss, "neck", adapter=GroundTruthBoxes(extent))
    term([student], [teacher], batch_of(sample(OBJECT))).backward()
    assert student.grad[0, 0].abs().sum(0).nonzero().flatten().tolist() == columns
    assert student.grad[0, 0].abs().sum(1).nonzero().flatten().tolist() == [1, 2]


def test_a_term_is_the_loss_with_these_boxes(maps):
    student, teacher = maps
    loss = FGDLoss(3, 1)
    term = DistillTerm(loss, "neck", adapter=dict(type="freqkd.GroundTruthBoxes"))
    value = term(student, teacher, batch_of(sample(OBJECT), sample(NONE)))
    expected = loss(student, teacher, boxes=[OBJECT, NONE], image_sizes=[(32, 64)] * 2)
    torch.testing.assert_close(value, expected)
    without = loss(student, teacher, boxes=[NONE, NONE], image_sizes=[(32, 64)] * 2)
    assert abs(value - without) > 1e-6


def test_wrong_input(maps):
    with pytest.raises(ValueError, match="extent must be one of 'padded', 'image', got 'pad'"):
        GroundTruthBoxes("pad")
    for unlabelled in (SimpleNamespace(), SimpleNamespace(gt_instances=SimpleNamespace())):
        with pytest.raises(
            ValueError, match=r"data_samples\[1\] must have gt_instances with bboxes, got SimpleNamespace"
        ):
            GroundTruthBoxes()(*maps, batch_of(sample(OBJECT), unlabelled))
