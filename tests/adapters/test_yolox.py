"""Objectness of YOLOX heads, and class logits weighted by the teacher's, on a small YOLOX of mmdet."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import DefaultScope
from small_transformers import build, source

from freqkd.adapters.yolox import YOLOXLogits
from freqkd.losses import LogitLoss
from freqkd.models import Distiller

pytestmark = pytest.mark.usefixtures("whole_networks")

KL = dict(type="freqkd.LogitLoss", softening=dict(type="fixed", tau=1.0), divergence="binary_kl", activation="sigmoid")


def yolox(width):
    """YOLOX with 3 classes, `width` channels in its head, images as they are."""
    model = source("mmdet::yolox/yolox_s_8xb8-300e_coco.py")
    model.data_preprocessor.batch_augments = []
    model.backbone.update(deepen_factor=0.33, widen_factor=0.125)
    model.neck.update(in_channels=[32, 64, 128], out_channels=width)
    model.bbox_head.update(num_classes=3, in_channels=width, feat_channels=width, stacked_convs=1)
    return model


def distiller(folder, terms):
    torch.manual_seed(1)
    teacher = build(yolox(16))
    for module in teacher.modules():  # statistics of images, without which a fresh network answers the same everywhere
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        teacher.train().bbox_head(teacher.extract_feat(torch.randn(2, 3, 64, 96)))
    torch.save(dict(state_dict=teacher.state_dict()), folder / "teacher.pth")
    held = dict(config=dict(model=yolox(16), default_scope="mmdet"), checkpoint=str(folder / "teacher.pth"))
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmdet"):
        return Distiller(yolox(8), held, terms).train()


def binary_kl(student, teacher):
    yes, no = (F.logsigmoid(sign * teacher) - F.logsigmoid(sign * student) for sign in (1, -1))
    return teacher.sigmoid() * yes + (-teacher).sigmoid() * no


def test_objectness_and_classes_by_hand(tmp_path, batch, watch):
    calls = watch(YOLOXLogits)
    term = dict(student_tap="neck", loss=KL)
    terms = {
        f"loss_{part}": dict(term, adapter=dict(type="freqkd.YOLOXLogits", part=part))
        for part in ("objectness", "classes")
    }
    model = distiller(tmp_path, terms)
    losses = model(*batch, mode="loss")
    with torch.no_grad():
        teacher = model.teacher.model
        classes, _, objectness = teacher.bbox_head(teacher.extract_feat(batch[0]))
    (first, read), (second, _) = calls
    own = read.student_feats["bbox_head"]
    assert [one.shape[1] for one in own] == [3] * 3 + [4] * 3 + [1] * 3
    pairs = [binary_kl(s, t).flatten() for s, t in zip(own[6:], objectness)]
    torch.testing.assert_close(losses["distill.loss_objectness"], torch.cat(pairs).mean())
    apart = torch.cat([binary_kl(s, t).sum(1).flatten() for s, t in zip(own[:3], classes)])
    weight = torch.cat([level.sigmoid().flatten() for level in objectness])
    assert float(weight.std()) > 0.1
    torch.testing.assert_close(losses["distill.loss_classes"], (weight * apart).sum() / weight.sum())
    assert "weight" not in first
    assert [one.shape for one in second["weight"]] == [(2, 8, 12), (2, 4, 6), (2, 2, 3)]
    losses["distill.loss_objectness"].backward()
    head = model.student.bbox_head
    assert all(conv.weight.grad.abs().sum() > 0 for conv in head.multi_level_conv_obj)
    assert all(conv.weight.grad is None for conv in head.multi_level_conv_cls)


def test_a_list_of_convolutions_is_no_tap_and_the_whole_head_is_one(tmp_path, batch):
    term = dict(loss=dict(type="freqkd.MSELoss"), student_tap="bbox_head.multi_level_conv_cls")
    words = (
        "terms.loss_mse.student_tap: 'bbox_head.multi_level_conv_cls' is a ModuleList, which never runs as a module, so there "
        "is nothing to tap; tap 'bbox_head', with student_levels and teacher_levels for those of its maps that count, or one "
        "of its modules, 'bbox_head.multi_level_conv_cls.0', 'bbox_head.multi_level_conv_cls.1', 'bbox_head.multi"
    )
    with pytest.raises(ValueError, match=words):
        distiller(tmp_path, dict(loss_mse=term))
    whole = dict(term, student_tap="bbox_head", student_levels=(0, 1, 2))
    one = dict(term, student_tap="bbox_head.multi_level_conv_cls.1")
    model = distiller(tmp_path, dict(loss_whole=whole, loss_one=one))
    losses = model(*batch, mode="loss")
    assert losses["distill.loss_whole"] > losses["distill.loss_one"] > 0


def test_other_heads_and_losses_are_refused():
    with pytest.raises(ValueError, match="part must be one of 'objectness', 'classes', got 'boxes'"):
        YOLOXLogits("boxes")
    with pytest.raises(
        ValueError, match="the student must have a YOLOX head, whose levels have objectness, got Identity"
    ):
        YOLOXLogits().check_head(
            torch.nn.ModuleDict(dict(bbox_head=torch.nn.Identity())), "neck", LogitLoss(), "student"
        )
    head = torch.nn.ModuleDict(dict(multi_level_conv_obj=torch.nn.ModuleList()))
    head.multi_level_conv_obj = head["multi_level_conv_obj"]
    with pytest.raises(
        ValueError, match="activation must be 'sigmoid', as objectness and classes of the teacher's Module"
    ):
        YOLOXLogits().check_head(
            torch.nn.ModuleDict(dict(bbox_head=head)), "neck", LogitLoss(activation="softmax"), "teacher"
        )
