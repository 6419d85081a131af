"""CrossKD on heads with boxes (RetinaNet, ATSS), and what padding does to the targets of a head."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData

import freqkd.registry  # noqa: F401
from freqkd.adapters.base import Batch
from freqkd.adapters.cross_head import CrossHead, by_anchor
from freqkd.adapters.distribution import TAPS, LDTargets, assign_targets
from freqkd.losses import CrossKDBoxLoss, LogitLoss, box_iou_loss, crosskd_box_terms
from freqkd.utils.compat import read_config

pytestmark = pytest.mark.usefixtures("whole_networks")

CONFIGS = {name: f"mmdet::{name}/{name}_r50_fpn_1x_coco.py" for name in ("retinanet", "atss", "gfl")}
NAMES = {
    "retinanet": dict(cls="retina_cls", reg="retina_reg"),
    "atss": dict(cls="atss_cls", reg="atss_reg", centerness="atss_centerness"),
}
STRIDES = (8, 16, 32, 64, 128)


def head(kind, seed):
    config = read_config(CONFIGS[kind]).model
    config.bbox_head.update(num_classes=3, in_channels=32, feat_channels=32, stacked_convs=2)
    options = dict(train_cfg=config.train_cfg, test_cfg=config.test_cfg)
    torch.manual_seed(seed)
    with DefaultScope.overwrite_default_scope("mmdet"):
        built = MODELS.build(ConfigDict({**config.bbox_head, **options}))
    for name, parameter in built.named_parameters():  # predictions apart from one another
        if parameter.dim() == 4 and "convs" not in name:
            torch.nn.init.normal_(parameter, std=0.1)
    for scale in getattr(built, "scales", ()):
        scale.scale.data.fill_(0.5 + seed)
    return torch.nn.ModuleDict(dict(bbox_head=built))


def make(kind, sizes=((64, 96), (64, 96))):
    """Two images, the first with two objects, the second with none, as a student and a teacher with one head each meet them."""
    samples = []
    for size, boxes in zip(sizes, ([[8.0, 8.0, 40.0, 44.0], [50.0, 20.0, 90.0, 60.0]], []), strict=True):
        truth = InstanceData(bboxes=torch.tensor(boxes).reshape(-1, 4), labels=torch.arange(len(boxes)))
        meta = dict(img_shape=size, pad_shape=size, ori_shape=size, scale_factor=(1, 1))
        samples.append(SimpleNamespace(metainfo=meta, gt_instances=truth))
    student, teacher = head(kind, 0), head(kind, 1)
    teacher.requires_grad_(False)
    torch.manual_seed(2)
    maps = [[torch.randn(2, 32, -(-64 // s), -(-96 // s)) for s in STRIDES] for _ in range(2)]
    maps[0] = [x.requires_grad_() for x in maps[0]]
    holder = SimpleNamespace(model=teacher, ready_heads=lambda: None)
    images = torch.zeros(2, 3, 64, 96)
    return Batch(images, images, samples, student, holder, {"neck": maps[0]}, {"neck": maps[1]}), *maps


def flat(maps, width):
    """As mmdet flattens a level: (N, A * width, H, W) -> (N, H * W * A, width)."""
    return torch.cat([x.permute(0, 2, 3, 1).reshape(len(x), -1, width) for x in maps], 1)


@pytest.mark.parametrize("kind", sorted(NAMES))
def test_the_loss_is_that_of_mmdets_own_rows(kind):
    """Cross predictions at depth 0 are the teacher's head on aligned features: everything again in mmdet's order."""
    batch, students, teachers = make(kind)
    found = CrossHead(index=0, **NAMES[kind])(students, teachers, batch)
    loss = CrossKDBoxLoss()(**found)

    teacher = batch.teacher.model.bbox_head
    moments = [[x.mean((0, 2, 3), keepdim=True) for x in maps] for maps in (students, teachers)]
    spread = [[x.std((0, 2, 3), keepdim=True) for x in maps] for maps in (students, teachers)]
    mixed = [(x - m) / (s + 1e-6) * u + n for x, m, n, s, u in zip(students, *moments, *spread, strict=True)]
    cross, own = teacher(mixed), teacher(teachers)
    targets = assign_targets(batch.student.bbox_head, cross[0], batch.data_samples)
    labels, weights = (torch.cat(list(x), 1) for x in (targets.labels, targets.label_weights))
    (p, q), (a, b) = [[flat(x[i], width) for x in (cross, own)] for i, width in ((0, 3), (1, 4))]
    gap = F.binary_cross_entropy_with_logits(p, q.sigmoid(), reduction="none") * (p.sigmoid() - q.sigmoid()).abs()
    expected = (gap.sum(2) * weights).sum() / targets.positives
    boxes = [teacher.bbox_coder.decode(targets.anchors.expand(2, -1, -1), x).reshape(-1, 4) for x in (a, b)]
    w = (q.sigmoid().amax(2) * (weights > 0)).reshape(-1)
    expected = expected + box_iou_loss(*boxes, w, avg_factor=targets.positives)
    if kind == "atss":
        near, far = (flat(x[2], 1)[..., 0] for x in (cross, own))
        centre = F.binary_cross_entropy_with_logits(near, far.sigmoid(), reduction="none")
        expected = expected + centre[(labels >= 0) & (labels < 3)].sum() / targets.positives
        assert ((labels >= 0) & (labels < 3)).sum() > 1
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("kind", sorted(NAMES))
def test_the_gradient_reaches_the_students_branches_alone(kind):
    batch, students, teachers = make(kind)
    CrossKDBoxLoss()(**CrossHead(index=1, **NAMES[kind])(students, teachers, batch)).backward()
    student = batch.student.bbox_head
    for convs in (student.cls_convs, student.reg_convs):
        assert convs[0].conv.weight.grad.abs().sum() > 0
        assert convs[1].conv.weight.grad is None
    assert students[0].grad.abs().sum() > 0
    assert all(x.grad is None for x in (*teachers, *batch.teacher.model.parameters()))


def test_classes_alone_are_weighed_and_divided_by_the_positives():
    batch, students, teachers = make("retinanet")
    both = CrossHead(index=1, **NAMES["retinanet"])(students, teachers, batch)
    found = CrossHead(index=1, cls="retina_cls", reg=None, num_classes=3)(students, teachers, batch)
    assert [x.shape for x in found["weight"]] == [x[:, 0].shape for x in found["student"]]
    loss = LogitLoss(dict(type="fixed", tau=1.0), "quality_focal", activation="sigmoid")(**found)
    torch.testing.assert_close(loss, crosskd_box_terms(**both)["loss_cls_kd"])


def test_values_by_anchor_follow_the_unfolded_maps():
    rows = torch.arange(2 * 4 * 3).reshape(2, 12)  # 2 images, 2 x 2 positions, 3 anchors
    order = by_anchor([rows], [torch.zeros(2, 5, 3, 2, 2)]).reshape(2, 3, 2, 2)
    assert order[1, 2, 1, 0] == rows[1, 3 * 2 + 2]  # position (1, 0) is the third, anchor 2


def test_anchors_on_the_padding_are_neither_valuable_nor_candidates():
    batch, *_ = make("gfl", sizes=((64, 48), (64, 96)))
    maps = [torch.zeros(2, 3, -(-64 // s), -(-96 // s)) for s in STRIDES]
    dists = [torch.zeros(2, 68, *x.shape[-2:]) for x in maps]
    batch.data_samples[0].gt_instances.bboxes[1, 2:] = torch.tensor([48.0, 60.0])
    batch.data_samples[0].gt_instances.bboxes[1, :2] = torch.tensor([20.0, 20.0])
    seen = {TAPS[0]: maps, TAPS[1]: dists}
    found = LDTargets()(
        [],
        [],
        Batch(
            *(getattr(batch, n) for n in ("inputs",) * 2), batch.data_samples, batch.student, batch.teacher, seen, seen
        ),
    )
    targets = assign_targets(batch.student.bbox_head, maps, batch.data_samples)
    region = torch.cat(found["vlr_region"], 1)
    assert not targets.valid[0].all()
    assert targets.valid[1].all()
    assert region[0][targets.valid[0]].max() > 0
    assert region[0][~targets.valid[0]].sum() == 0
    narrow, *_ = make("gfl", sizes=((64, 48), (64, 48)))  # the same image in a batch of its own width
    narrow.data_samples[0].gt_instances.bboxes = batch.data_samples[0].gt_instances.bboxes
    small = {TAPS[0]: [x[..., : -(-48 // s)] for x, s in zip(maps, STRIDES)]}
    small[TAPS[1]] = [x[..., : -(-48 // s)] for x, s in zip(dists, STRIDES)]
    alone = LDTargets()(
        [], [], Batch(batch.inputs, batch.inputs, narrow.data_samples, batch.student, batch.teacher, small, small)
    )
    torch.testing.assert_close(torch.cat(alone["vlr_region"], 1)[0], region[0][targets.valid[0]])


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="centerness must be None where reg is None, got 'atss_centerness'"):
        CrossHead(cls="atss_cls", reg=None, centerness="atss_centerness", num_classes=3)
    batch, students, teachers = make("atss")
    found = CrossHead(index=1, **NAMES["atss"])(students, teachers, batch)
    with pytest.raises(ValueError, match="on all of its 5 levels together, got maps of 2; leave out student_levels"):
        CrossHead(index=1, **NAMES["atss"])(students[:2], teachers[:2], batch)
    lacking = copy.copy(found)
    del lacking["positive"]
    with pytest.raises(ValueError, match="positive must be given with centernesses"):
        crosskd_box_terms(**lacking)
    with pytest.raises(ValueError, match="kind must be one of"):
        CrossKDBoxLoss(kind="diou")
    with pytest.raises(ValueError, match="box_weight must be at least 0"):
        CrossKDBoxLoss(box_weight=-1.0)
