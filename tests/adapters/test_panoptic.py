"""The semantic head of a panoptic detector: its logits, and the labels of its own loss."""

import torch
from mmengine.registry import DefaultScope
from small_two_stage import held, masked_batch, two_stage

from freqkd.adapters.segmentation import SegLogits
from freqkd.models import Distiller


def test_seg_logits_serve_the_semantic_head_with_the_labels_of_its_own_loss(tmp_path, watch, whole_networks):
    calls = watch(SegLogits)
    config = two_stage("panoptic")
    taught = held(config, tmp_path)
    torch.manual_seed(0)
    loss = dict(type="freqkd.LogitLoss", softening=dict(type="fixed", tau=1.0), divergence="nkd")
    term = dict(student_tap="semantic_head.conv_logits", adapter=dict(type="freqkd.SegLogits"), loss=loss)
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = Distiller(config, taught, dict(loss_kd=term)).train()
    images, samples = masked_batch()
    rows = []
    model.student.semantic_head.loss_seg.register_forward_pre_hook(lambda _, inputs: rows.append(inputs))
    losses = model(images, samples, mode="loss")
    found, _ = calls[0]
    logits, labels = rows[0]  # one row for each position, as its own loss gets them
    assert set(labels.tolist()) == {0, 1, 2, 255}  # two stuff classes, one of all things, ignored
    torch.testing.assert_close(found["student"].permute(0, 2, 3, 1).reshape(-1, 3), logits)
    assert torch.equal(found["target"].flatten(), labels)
    with torch.no_grad():
        teacher = model.teacher.model
        expected = teacher.semantic_head(teacher.extract_feat(images))["seg_preds"]
    torch.testing.assert_close(found["teacher"], expected)
    assert torch.isfinite(losses["distill.loss_kd"])
    losses["distill.loss_kd"].backward()
    assert model.student.semantic_head.conv_logits.weight.grad.abs().sum() > 0
    assert model.student.rpn_head.rpn_conv.weight.grad is None
