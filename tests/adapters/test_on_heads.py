"""Adapters on the heads of mmdet and mmseg: the rows a head's own loss sees, auxiliary heads, class weights, processes."""

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData, PixelData

import freqkd.registry  # noqa: F401
from freqkd.adapters import dense
from freqkd.adapters.band_head import BandHead
from freqkd.adapters.base import Batch
from freqkd.adapters.dense import DenseLogits
from freqkd.losses import CrossKDBoxLoss, LogitLoss
from freqkd.taps import FeatureTap
from freqkd.utils import processes
from freqkd.utils.compat import read_config

pytestmark = pytest.mark.usefixtures("whole_networks")

ROOT = Path(__file__).resolve().parent.parent.parent
HEADS = {  # config, tap, anchors per position
    "retinanet": ("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py", "retina_cls", 9),
    "fcos": ("mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py", "conv_cls", 1),
    "atss": ("mmdet::atss/atss_r50_fpn_1x_coco.py", "atss_cls", 1),
    "gfl": ("mmdet::gfl/gfl_r50_fpn_1x_coco.py", "gfl_cls", 1),
}
CLASSES = 3


def detection_samples(sizes, boxes):
    for size, count in zip(sizes, boxes):
        corners = torch.tensor([[8.0, 8.0, 40.0, 44.0], [50.0, 20.0, 90.0, 60.0]])[:count]
        meta = dict(img_shape=size, pad_shape=size, ori_shape=size, scale_factor=(1, 1))
        truth = InstanceData(bboxes=corners, labels=torch.arange(count))
        yield SimpleNamespace(metainfo=meta, gt_instances=truth)


@pytest.mark.parametrize("name", sorted(HEADS))
def test_its_samples_are_the_rows_of_the_heads_own_loss(name):
    path, tap_name, anchors = HEADS[name]
    config = read_config(path).model
    config.bbox_head.update(num_classes=CLASSES, in_channels=32, feat_channels=32, stacked_convs=1)
    options = dict(train_cfg=config.get("train_cfg"), test_cfg=config.test_cfg)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmdet"):
        head = MODELS.build(ConfigDict({**config.bbox_head, **options}))
    torch.nn.init.normal_(getattr(head, tap_name).weight)  # logits of no two classes or anchors alike
    samples = list(detection_samples([(64, 96)] * 2, (2, 1)))
    feats = [torch.randn(2, 32, -(-64 // stride), -(-96 // stride)) for stride in (8, 16, 32, 64, 128)]
    holder, rows = torch.nn.ModuleDict(dict(bbox_head=head)), []
    head.loss_cls.register_forward_pre_hook(lambda module, inputs: rows.append(inputs[0].detach()))
    with FeatureTap(holder, [f"bbox_head.{tap_name}"]) as tap:
        outs = head(feats)
        maps = tap.maps(f"bbox_head.{tap_name}")
    metas, truths = [sample.metainfo for sample in samples], [sample.gt_instances for sample in samples]
    head.loss_by_feat(*outs, truths, metas)

    batch = Batch(torch.zeros(2, 3, 64, 96), torch.zeros(1), samples, holder, None, {}, {})
    found = DenseLogits(num_classes=CLASSES)(maps, maps, batch)["student"]
    assert [tuple(level.shape[:3]) for level in found] == [(2, CLASSES, anchors)] * 5
    unfolded = [level.permute(0, 3, 4, 2, 1).reshape(-1, CLASSES) for level in found]
    torch.testing.assert_close(torch.cat(unfolded), torch.cat([row.reshape(-1, CLASSES) for row in rows]))


def test_boxes_of_a_head_without_anchors_are_refused():
    config = read_config(HEADS["fcos"][0]).model
    with DefaultScope.overwrite_default_scope("mmdet"):
        head = MODELS.build(ConfigDict({**config.bbox_head, "num_classes": CLASSES, "test_cfg": config.test_cfg}))
    network = torch.nn.ModuleDict(dict(bbox_head=head))
    loss = LogitLoss(divergence="quality_focal")
    BandHead(cls="conv_cls", reg=None).check_head(network, "neck", loss, "student")
    with pytest.raises(ValueError, match=r"reg must be None for the student's FCOSHead.*got 'conv_reg'"):
        BandHead(cls="conv_cls", reg="conv_reg").check_head(network, "neck", CrossKDBoxLoss(), "student")


def test_the_number_of_boxes_is_that_of_all_processes_together(monkeypatch):
    def mean_with_another_process(count, op):
        assert op == "mean"
        count.add_(6).div_(2)  # it has 6 boxes

    samples = list(detection_samples([(64, 96)] * 3, (2, 1, 0)))
    batch = Batch(torch.zeros(3, 3, 8, 8), torch.zeros(1), samples, torch.nn.Identity(), None, {}, {})
    assert dense.count_boxes(batch).item() == 3
    monkeypatch.setattr(processes, "all_reduce", mean_with_another_process)
    assert dense.count_boxes(batch).item() == 4.5


PATHS = ("decode_head.conv_seg", "auxiliary_head.conv_seg")
WEIGHTS = [0.5, 1.0, 2.0, 3.0, 0.0]
TAU = 2.0


@pytest.fixture
def segmenter(fresh, tmp_path):
    """A segmenter with an auxiliary head that learns from another on both heads, classes weighted; and a batch."""
    from mmseg.structures import SegDataSample

    config = Config.fromfile(ROOT / "configs/_base_/models/semantic_fpn_r18.py")
    model = config.model
    model.backbone.base_channels = 4
    model.neck.update(in_channels=[4, 8, 16, 32], out_channels=8)
    model.decode_head.update(in_channels=[8] * 4, channels=8, dropout_ratio=0.0)
    model.auxiliary_head = dict(
        type="FCNHead", in_channels=8, in_index=2, channels=8, num_convs=1, num_classes=5, dropout_ratio=0.0,
        norm_cfg=dict(type="BN"), loss_decode=dict(type="CrossEntropyLoss", loss_weight=0.4),
    )  # fmt: skip
    model.data_preprocessor.size = (64, 96)
    Config(dict(default_scope="mmseg", model=model.to_dict())).dump(tmp_path / "teacher.py")
    loss = dict(
        type="freqkd.LogitLoss",
        softening=dict(type="fixed", tau=TAU),
        divergence="kl",
        ignore_index=255,
        class_weight=WEIGHTS,
    )
    term = dict(type="freqkd.DistillTerm", adapter=dict(type="freqkd.SegLogits"), loss=loss)
    terms = dict(
        loss_main=dict(student_tap=PATHS[0], weight=1.0, **term),
        loss_auxiliary=dict(student_tap=PATHS[1], weight=0.4, **term),
    )
    teacher = dict(config=str(tmp_path / "teacher.py"), checkpoint=str(tmp_path / "teacher.pth"))
    with DefaultScope.overwrite_default_scope("mmseg"):
        for seed in (1, 0):
            torch.manual_seed(seed)
            student = MODELS.build(copy.deepcopy(model))
            if seed:
                torch.save(dict(state_dict=student.state_dict()), teacher["checkpoint"])
        distiller = MODELS.build(dict(type="freqkd.Distiller", student=student, teacher=teacher, terms=terms)).train()
    labels = torch.randint(5, (2, 1, 64, 96))
    labels[:, :, 40:] = 255
    samples = [SegDataSample(gt_sem_seg=PixelData(data=one), metainfo=dict(img_shape=(64, 96))) for one in labels]
    return distiller, torch.randn(2, 3, 64, 96), samples, labels[:, 0]


def test_both_heads_are_compared_where_there_are_labels_each_class_by_its_weight(segmenter):
    model, images, samples, labels = segmenter
    with FeatureTap(model.student, PATHS) as tap:
        losses = model(images, samples, mode="loss")
        students = [tap.maps(path)[0] for path in PATHS]
    teachers = model.teacher.extract(images, samples, PATHS)
    for path, student, name, weight in zip(PATHS, students, ("main", "auxiliary"), (1.0, 0.4)):
        step = 64 // student.shape[2]
        near = labels[:, step // 2 :: step, step // 2 :: step]  # a label at the middle of each position
        assert near.shape[1:] == student.shape[2:]
        log_p, q = (student / TAU).log_softmax(1), (teachers[path][0] / TAU).softmax(1)
        apart = F.kl_div(log_p, q, reduction="none").sum(1) * TAU**2
        counts = torch.tensor([*WEIGHTS, 0.0])[near.where(near != 255, torch.tensor(5))]
        torch.testing.assert_close(losses[f"distill.loss_{name}"], weight * (counts * apart).sum() / counts.sum())
    losses["distill.loss_auxiliary"].backward()
    assert model.student.auxiliary_head.conv_seg.weight.grad.abs().sum() > 0
    assert model.student.decode_head.conv_seg.weight.grad is None
