"""Both mask heads draw the student's positive proposals, in a Mask R-CNN and a cascade of mmdet."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import DefaultScope
from small_two_stage import held, masked_batch, two_stage

from freqkd.adapters.roi_masks import MaskLogits
from freqkd.losses import LogitLoss
from freqkd.models import Distiller

pytestmark = pytest.mark.usefixtures("whole_networks")

KL = dict(type="freqkd.LogitLoss", softening=dict(type="fixed", tau=1.0), divergence="binary_kl", activation="sigmoid")
HEAD, EXTRACTOR = "roi_head.mask_head", "roi_head.mask_roi_extractor"


def distiller(folder, student=None, teacher=None, loss=KL, **options):
    taught = held(teacher or two_stage("mask"), folder)
    torch.manual_seed(0)
    term = dict(student_tap="neck", adapter=dict(type="freqkd.MaskLogits", **options), loss=loss)
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = Distiller(student or two_stage("mask"), taught, dict(loss_mask_kd=term))
    model.init_weights()
    return model.train()


@pytest.fixture
def spy(watch):
    return watch(MaskLogits)


def test_masks_are_those_of_the_proposals_classes_in_the_heads_own_loss(tmp_path, spy):
    model, (images, samples) = distiller(tmp_path), masked_batch()
    losses = model(images, samples, mode="loss")
    found, read = spy[0]
    _, targets, labels = read.student_inputs[f"{HEAD}.loss_mask"][0]
    assert len(labels) >= 4  # both objects of both images are proposals
    assert set(labels.tolist()) == {0, 2}
    assert found["student"].shape == found["teacher"].shape == (len(labels), 1, 4, 4)
    own = F.binary_cross_entropy_with_logits(found["student"][:, 0], targets)
    torch.testing.assert_close(
        losses["loss_mask"].squeeze(), own
    )  # logits and classes are those of the student's own loss
    with torch.no_grad():  # the teacher by hand, on the same boxes
        network, (_, rois) = model.teacher.model, read.student_inputs[EXTRACTOR][0]
        drawn = network.roi_head.mask_head(network.roi_head.mask_roi_extractor(network.extract_feat(images)[:4], rois))
        expected = torch.stack([mask[label] for mask, label in zip(drawn, labels)])
    torch.testing.assert_close(found["teacher"][:, 0], expected)
    p, q = found["student"][:, 0].sigmoid(), expected.sigmoid()
    by_hand = (q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()).mean()
    torch.testing.assert_close(losses["distill.loss_mask_kd"], by_hand)
    by_hand.backward()
    assert model.student.roi_head.mask_head.conv_logits.weight.grad[[0, 2]].abs().sum() > 0
    assert model.student.roi_head.mask_head.conv_logits.weight.grad[1].abs().sum() == 0  # a class that is not there
    assert model.student.backbone.conv1.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.teacher.model.parameters())


def test_a_student_that_is_its_teacher_has_nothing_to_learn(tmp_path):
    model, batch = distiller(tmp_path), masked_batch()
    model.student.load_state_dict(model.teacher.model.state_dict())
    model.eval()
    assert model(*batch, mode="loss")["distill.loss_mask_kd"].item() == pytest.approx(0, abs=1e-6)


def test_a_stage_of_a_cascade_teaches_and_one_mask_serves_all_classes(tmp_path, spy):
    teacher = two_stage("cascade", class_agnostic=True)
    teacher.roi_head.mask_roi_extractor.roi_layer.output_size = 3  # masks of 6 x 6 pixels
    model, batch = distiller(tmp_path, teacher=teacher, teacher_stage=1), masked_batch()
    model(*batch, mode="loss")
    found, read = spy[0]
    _, rois = read.student_inputs[EXTRACTOR][0]
    with torch.no_grad():
        head, feats = model.teacher.model.roi_head, model.teacher.model.extract_feat(batch[0])[:4]
        drawn = head.mask_head[1](head.mask_roi_extractor[1](feats, rois))
    assert drawn.shape[1:] == (1, 6, 6)
    torch.testing.assert_close(found["teacher"], F.interpolate(drawn, size=(4, 4), mode="bilinear"))


def test_a_batch_without_an_object_costs_nothing(tmp_path):
    model = distiller(tmp_path)
    loss = model(*masked_batch(boxes=0), mode="loss")["distill.loss_mask_kd"]
    loss.backward()
    assert loss == 0


def detector(**roi_head):
    return torch.nn.ModuleDict(dict(roi_head=torch.nn.ModuleDict(roi_head)))


def test_what_does_not_fit_is_named_before_training():
    softmax, network = LogitLoss(divergence="kl", activation="softmax"), detector(mask_head=torch.nn.Identity())
    with pytest.raises(
        ValueError, match="the loss's activation must be 'sigmoid', as each pixel of the teacher's Identity"
    ):
        MaskLogits().check_head(network, "neck", softmax, "teacher")
    with pytest.raises(ValueError, match=r"the student must have a roi_head.mask_head, got ModuleDict, which has none"):
        MaskLogits().check_head(detector(), "neck", LogitLoss(), "student")
    network.roi_head.share_roi_extractor = True
    with pytest.raises(ValueError, match="mask_roi_extractor of its own, got share_roi_extractor=True"):
        MaskLogits().check_head(network, "neck", LogitLoss(divergence="dist"), "student")


def test_a_teacher_of_other_classes_is_named(tmp_path):
    teacher = two_stage("mask")
    teacher.roi_head.mask_head.num_classes = 5
    with pytest.raises(
        ValueError, match="must have 3 masks for a proposal, as the student's, or one for all classes, got 5"
    ):
        distiller(tmp_path, teacher=teacher)(*masked_batch(), mode="loss")


def test_the_activation_is_the_heads_where_the_loss_leaves_it_open():
    loss = LogitLoss(divergence="dist")
    MaskLogits().check_head(detector(mask_head=torch.nn.Identity()), "neck", loss, "student")
    assert loss.activation == "sigmoid"
