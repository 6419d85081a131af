"""LD, BCKD, CrossKD and DS2D2 on real GFL heads: targets of the head's own assigner, gradients to the student alone."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData

import freqkd.registry  # noqa: F401
from freqkd.adapters.band_head import BandHead
from freqkd.adapters.base import Batch
from freqkd.adapters.cross_head import CrossHead, run_branch
from freqkd.adapters.distribution import TAPS, BCKDTargets, LDTargets, assign_targets
from freqkd.losses import BCKDLoss, CrossKDLoss, LDLoss, without_low
from freqkd.taps import FeatureTap

ROOT = Path(__file__).resolve().parent.parent.parent


def network(seed):
    model = Config.fromfile(ROOT / "configs/_base_/models/gfl_r18.py").model
    torch.manual_seed(seed)
    with DefaultScope.overwrite_default_scope("mmdet"):
        return MODELS.build(model).train()


@pytest.fixture
def batch():
    """Two images of 64 x 96 with two cells in the first and none in the second, as both networks meet them."""
    student, teacher = network(0), network(1)
    teacher.requires_grad_(False)
    samples = []
    for boxes in ([[8.0, 8.0, 40.0, 44.0], [50.0, 20.0, 90.0, 60.0]], []):
        truth = InstanceData(bboxes=torch.tensor(boxes).reshape(-1, 4), labels=torch.arange(len(boxes)))
        meta = dict(img_shape=(64, 96), pad_shape=(64, 96), ori_shape=(64, 96), scale_factor=(1, 1))
        samples.append(SimpleNamespace(metainfo=meta, gt_instances=truth))
    torch.manual_seed(2)
    images = torch.randn(2, 3, 64, 96)
    found = []
    for model in (student, teacher):
        with FeatureTap(model, ["neck", *TAPS]) as tap:
            model.bbox_head(model.extract_feat(images))
            found.append({path: tap.maps(path) for path in ("neck", *TAPS)})
    holder = SimpleNamespace(model=teacher, ready_heads=lambda: None)
    return Batch(images, images, samples, student, holder, *found)


def check_gradients(loss, batch, reached=("gfl_cls", "gfl_reg")):
    assert torch.isfinite(loss)
    assert loss > 0
    loss.backward()
    for name in reached:
        assert getattr(batch.student.bbox_head, name).weight.grad.abs().sum() > 0
    assert batch.student.backbone.conv1.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in batch.teacher.model.parameters())


def test_targets_are_those_of_the_heads_own_loss(batch):
    head = batch.student.bbox_head
    targets = assign_targets(head, batch.student_feats[TAPS[0]], batch.data_samples)
    positive = [(labels < 3).sum(1) for labels in targets.labels]
    per_image = torch.stack(positive).sum(0)
    assert per_image[0] > 0
    assert per_image[1] == 0
    assert targets.positives == max(int(per_image.sum()), 1) or targets.positives == int(per_image.sum()) + 1
    assert targets.num_level_anchors == [96, 24, 6, 2, 1]


def test_ld_reads_scaled_distributions_labels_and_region(batch):
    batch.student.bbox_head.scales[0].scale.data.fill_(2.0)
    arguments = LDTargets()([], [], batch)
    torch.testing.assert_close(arguments["reg_student"][0], 2 * batch.student_feats[TAPS[1]][0])
    torch.testing.assert_close(arguments["reg_student"][1], batch.student_feats[TAPS[1]][1])
    region = torch.cat(arguments["vlr_region"], 1)
    assert region.shape == (2, 129)
    assert region[0].max() > 0
    assert region[1].sum() == 0  # an image without objects has no region
    check_gradients(LDLoss()(**arguments), batch)


def test_bckd_counts_every_position_and_divides_by_the_positives(batch):
    arguments = BCKDTargets()([], [], batch)
    assert arguments["label_weights"].shape == (2 * 129,)
    loss = BCKDLoss()(**arguments)
    doubled = BCKDLoss()(**{**arguments, "avg_factor": 2 * arguments["avg_factor"]})
    torch.testing.assert_close(doubled, loss / 2)
    check_gradients(loss, batch)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_cross_predictions_of_the_teacher_itself_are_its_own(batch, index):
    """A student that is the teacher has the teacher's statistics: nothing is left to learn."""
    twin = dataclasses.replace(batch, student=batch.teacher.model, student_feats=batch.teacher_feats)
    found = CrossHead(index=index)(batch.teacher_feats["neck"], batch.teacher_feats["neck"], twin)
    for level in range(3):  # P6 and P7 hold a position or two, whose deviation is next to nothing
        torch.testing.assert_close(found["cross_cls"][level], found["cls_teacher"][level], atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(
            found["cls_teacher"][level], batch.teacher_feats[TAPS[0]][level], atol=1e-4, rtol=1e-4
        )
        torch.testing.assert_close(
            found["reg_teacher"][level], batch.teacher_feats[TAPS[1]][level], atol=1e-4, rtol=1e-4
        )


def test_crosskd_teaches_the_students_branch_up_to_its_depth(batch):
    found = CrossHead(index=1)(batch.student_feats["neck"], batch.teacher_feats["neck"], batch)
    check_gradients(CrossKDLoss()(**found), batch, reached=())
    head = batch.student.bbox_head
    assert head.cls_convs[0].conv.weight.grad.abs().sum() > 0
    assert head.cls_convs[1].conv.weight.grad is None  # the teacher's convolutions take over
    assert head.gfl_cls.weight.grad is None


def test_a_branch_stops_before_its_activation(batch):
    convs = batch.student.bbox_head.cls_convs
    feat = batch.student_feats["neck"][0]
    before = run_branch(convs, feat, 1)
    assert before.min() < 0
    torch.testing.assert_close(before.relu(), convs[0](feat))
    torch.testing.assert_close(run_branch(convs, feat, 0), feat)


def test_wrong_arguments_say_what_to_do(batch):
    with pytest.raises(ValueError, match="num_classes must be 3, as in the teacher's GFLHead, got 4"):
        CrossHead(reg=None, num_classes=4).check_head(batch.teacher.model, "neck", LDLoss(), "teacher")
    with pytest.raises(ValueError, match="index must be at most 2"):
        CrossHead(index=3)(batch.student_feats["neck"], batch.teacher_feats["neck"], batch)


@pytest.mark.parametrize("bands", ["all", "details"])
def test_maps_behind_the_band_go_through_the_teachers_head_as_they_are(batch, bands):
    head = batch.teacher.model.bbox_head
    adapter = BandHead(bands, cls="gfl_cls", reg="gfl_reg")
    found = adapter(batch.student_feats["neck"], batch.teacher_feats["neck"], batch)
    for maps, cls, reg in (
        (batch.student_feats["neck"], "cross_cls", "cross_reg"),
        (batch.teacher_feats["neck"], "cls_teacher", "reg_teacher"),
    ):
        maps = maps if bands == "all" else [without_low(x, 1) for x in maps]
        for ours, expected in zip((found[cls], found[reg]), head(maps)):
            for level in range(5):
                torch.testing.assert_close(ours[level], expected[level])
    check_gradients(CrossKDLoss()(**found), batch, reached=())
