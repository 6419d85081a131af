"""Both box heads classify the student's proposals, in a Faster R-CNN and a cascade of mmdet."""

import copy

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, DefaultScope

import freqkd.registry  # noqa: F401
from freqkd.adapters.base import Batch
from freqkd.adapters.proposals import ProposalLogits
from freqkd.losses import dkd_loss
from freqkd.models import Distiller
from freqkd.utils.compat import read_config

pytestmark = pytest.mark.usefixtures("whole_networks")

DKD = dict(type="freqkd.LogitLoss", softening=dict(type="fixed", tau=1.0), divergence=dict(type="dkd", beta=0.25))
HEAD = "roi_head.bbox_head"


def small(width=8, name="faster-rcnn", **head):
    """A two-stage detector of mmdet's own config, made small: 3 classes, FPN of 16 channels, 32 sampled proposals."""
    folder = name.replace("-", "_")
    model = read_config(f"mmdet::{folder}/{name}_r50_fpn_1x_coco.py").model
    model.backbone.update(depth=18, base_channels=width, frozen_stages=-1, norm_eval=False, init_cfg=None)
    model.neck.update(in_channels=[width * 2**i for i in range(4)], out_channels=16)
    model.rpn_head.update(in_channels=16, feat_channels=16)
    cascade = isinstance(model.roi_head.bbox_head, list)
    for part in model.roi_head.bbox_head if cascade else [model.roi_head.bbox_head]:
        part.update(in_channels=16, fc_out_channels=16, roi_feat_size=3, num_classes=3, **head)
    model.roi_head.bbox_roi_extractor.update(out_channels=16)
    model.roi_head.bbox_roi_extractor.roi_layer.output_size = 3
    model.train_cfg.rpn_proposal.update(nms_pre=40, max_per_img=40)
    for part in model.train_cfg.rcnn if cascade else [model.train_cfg.rcnn]:
        part.sampler.num = 32
    return model


def build(config):
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(ConfigDict(copy.deepcopy(config)))
    model.init_weights()
    return model


def teacher(config, folder):
    torch.manual_seed(1)
    torch.save(dict(state_dict=build(config).state_dict()), folder / "teacher.pth")
    return dict(config=dict(model=config, default_scope="mmdet"), checkpoint=str(folder / "teacher.pth"))


def distiller(folder, student=None, teacher_config=None, **options):
    held = teacher(teacher_config or small(), folder)
    torch.manual_seed(0)
    adapter = dict(type="freqkd.ProposalLogits", **options)
    term = dict(student_tap="neck", adapter=adapter, loss=DKD)
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = Distiller(student or small(), held, dict(loss_dkd=term))
    model.init_weights()
    return model.train()


@pytest.fixture
def spy(watch):
    return watch(ProposalLogits)


def test_rows_are_the_students_proposals_with_the_labels_of_its_loss(tmp_path, batch, spy):
    model = distiller(tmp_path)
    losses = model(*batch, mode="loss")
    found, read = spy[0]
    rows = len(found["target"])
    assert found["student"].shape == found["teacher"].shape == (rows, 4)
    assert rows == 64
    assert set(found["target"].tolist()) >= {0, 2, 3}  # both objects, added as proposals, and background
    entropy = torch.nn.functional.cross_entropy(found["student"], found["target"])
    torch.testing.assert_close(losses["loss_cls"], entropy)  # logits and labels are those of the student's own loss
    with torch.no_grad():  # the teacher by hand, on the same boxes
        network, (feats, rois) = model.teacher.model, read.student_inputs["roi_head.bbox_roi_extractor"][0]
        assert len(feats) == 4
        own = network.extract_feat(batch[0])[:4]
        expected = network.roi_head.bbox_head(network.roi_head.bbox_roi_extractor(own, rois))[0]
    torch.testing.assert_close(found["teacher"], expected)
    by_hand = dkd_loss(found["student"], expected, found["target"], tau=1.0, alpha=1.0, beta=0.25)
    torch.testing.assert_close(losses["distill.loss_dkd"], by_hand)


def test_the_gradient_reaches_the_students_class_branch_and_nothing_of_the_teacher(tmp_path, batch):
    model = distiller(tmp_path)
    loss = model(*batch, mode="loss")["distill.loss_dkd"]
    assert loss > 0
    loss.backward()
    head = model.student.roi_head.bbox_head
    assert head.fc_cls.weight.grad.abs().sum() > 0
    assert head.fc_reg.weight.grad is None
    assert model.student.backbone.conv1.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.teacher.model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_student_that_is_its_teacher_has_nothing_to_learn(tmp_path, batch):
    model = distiller(tmp_path)
    model.student.load_state_dict(model.teacher.model.state_dict())
    model.eval()
    assert model(*batch, mode="loss")["distill.loss_dkd"].item() == pytest.approx(0, abs=1e-6)


def test_the_teachers_neck_runs_once_where_another_term_taps_it(tmp_path, batch, monkeypatch):
    model = distiller(tmp_path)
    calls = []
    model.teacher.model.neck.register_forward_hook(lambda *_: calls.append(1))
    mse = dict(student_tap="neck", loss=dict(type="freqkd.MSELoss"))
    both = Distiller(model.student, model.teacher, dict(model.terms, loss_mse=mse)).train()
    losses = both(*batch, mode="loss")
    assert len(calls) == 1
    assert {"distill.loss_dkd", "distill.loss_mse"} <= set(losses)


@pytest.mark.parametrize("stage", [0, 2])
def test_each_box_head_of_a_cascade_can_be_distilled(tmp_path, batch, spy, stage):
    cascade = small(name="cascade-rcnn")
    model = distiller(tmp_path, cascade, cascade, stage=stage)
    losses = model(*batch, mode="loss")
    found, _ = spy[0]
    entropy = torch.nn.functional.cross_entropy(found["student"], found["target"])
    torch.testing.assert_close(losses[f"s{stage}.loss_cls"], entropy * model.student.roi_head.stage_loss_weights[stage])
    losses["distill.loss_dkd"].backward()
    assert model.student.roi_head.bbox_head[stage].fc_cls.weight.grad.abs().sum() > 0
    assert model.student.roi_head.bbox_head[1].fc_cls.weight.grad is None


def test_a_teacher_of_another_kind_is_named(tmp_path, batch):
    cascade = small(name="cascade-rcnn")
    words = r"terms.loss_dkd: teacher_stage must be .* got None; the teacher has 3: set teacher_stage from 0 to 2"
    with pytest.raises(ValueError, match=words):
        distiller(tmp_path, teacher_config=cascade)
    with pytest.raises(
        ValueError, match=r"student_stage must be .* got None; the student has 3: set student_stage from 0"
    ):
        distiller(tmp_path, student=cascade)
    with pytest.raises(
        ValueError, match=r"student_stage must be .* got 0; the student has one bbox_head: leave student_st"
    ):
        distiller(tmp_path, stage=0)
    for name in ("stage", "student_stage", "teacher_stage"):
        with pytest.raises(ValueError, match=f"^{name} must be at least 0, got -1"):
            ProposalLogits(**{name: -1})
    with pytest.raises(ValueError, match="stage must be left out beside student_stage and teacher_stage, got 1"):
        ProposalLogits(stage=1, teacher_stage=2)


def test_a_faster_rcnn_learns_from_a_stage_of_a_cascade(tmp_path, batch, spy):
    model = distiller(tmp_path, teacher_config=small(name="cascade-rcnn"), teacher_stage=2)
    loss = model(*batch, mode="loss")["distill.loss_dkd"]
    found, read = spy[0]
    with torch.no_grad():  # the teacher by hand, on the same boxes
        network, (_, rois) = model.teacher.model, read.student_inputs["roi_head.bbox_roi_extractor"][0]
        own = network.extract_feat(batch[0])[:4]
        extract, classify = network.roi_head.bbox_roi_extractor[2], network.roi_head.bbox_head[2]
        expected = classify(extract(own, rois))[0]
    torch.testing.assert_close(found["teacher"], expected)
    loss.backward()
    assert model.student.roi_head.bbox_head.fc_cls.weight.grad.abs().sum() > 0


def test_a_cascade_learns_from_a_faster_rcnn(tmp_path, batch):
    model = distiller(tmp_path, student=small(name="cascade-rcnn"), student_stage=1)
    model(*batch, mode="loss")["distill.loss_dkd"].backward()
    heads = model.student.roi_head.bbox_head
    assert heads[1].fc_cls.weight.grad.abs().sum() > 0
    assert heads[0].fc_cls.weight.grad is heads[2].fc_cls.weight.grad is None


def test_a_batch_without_a_proposal_costs_nothing(tmp_path, batch):
    model = distiller(tmp_path)
    empty = torch.zeros(0, 4, requires_grad=True)
    student_inputs = {"roi_head.bbox_roi_extractor": [], f"{HEAD}.loss_cls": []}
    one = Batch(batch[0], batch[0], batch[1], model.student, model.teacher, {HEAD: [empty]}, {}, student_inputs)
    loss = model.terms["loss_dkd"]([], [], one)
    loss.backward()
    assert loss == 0


def test_the_gradient_ratio_is_measured_at_the_class_layer(tmp_path, batch):
    model = distiller(tmp_path)
    term = dict(
        student_tap=f"{HEAD}.fc_cls",
        adapter=dict(type="freqkd.ProposalLogits"),
        loss=DKD,
        weight=dict(ratio=0.5, iters=1),
    )
    weighted = Distiller(model.student, model.teacher, dict(loss_dkd=term), monitor=1).train()
    weighted(*batch, mode="loss")
    ratio = MessageHub.get_current_instance().get_scalar("train/ratio/loss_dkd").current()
    assert ratio == pytest.approx(0.5, rel=1e-4)


def test_classes_that_both_have_are_compared_with_the_background(tmp_path, batch, spy):
    """A teacher of five classes; the student's class 1 is unknown to it and counts as background."""
    other = small()
    other.roi_head.bbox_head.num_classes = 5
    model = distiller(tmp_path, teacher_config=other, classes=[(2, 4), (0, 1)])
    losses = model(*batch, mode="loss")
    found, read = spy[0]
    whole = read.student_feats[HEAD][0]
    assert torch.equal(found["student"], whole[:, [2, 0, 3]])
    labels = read.student_inputs[f"{HEAD}.loss_cls"][0][1]
    assert set(labels.tolist()) >= {0, 2, 3}
    assert found["target"].tolist() == [{0: 1, 2: 0}.get(label, 2) for label in labels.tolist()]
    rois = read.student_inputs["roi_head.bbox_roi_extractor"][0][1]
    network = model.teacher.model
    with torch.no_grad():
        feats = network.roi_head.bbox_roi_extractor(network.extract_feat(batch[0])[:4], rois)
        expected = network.roi_head.bbox_head(feats)[0]
    torch.testing.assert_close(found["teacher"], expected[:, [4, 1, 5]])
    assert losses["distill.loss_dkd"] > 0
