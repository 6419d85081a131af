"""Class scores of positions from the queries of a Mask2Former and a MaskFormer of mmseg."""

import copy

import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from small_transformers import build, mask_classifier

from freqkd.adapters.mask_classification import LEAST, QueryMaskLogits, position_logits
from freqkd.losses import kd_loss
from freqkd.models import Distiller

KL = dict(type="freqkd.LogitLoss", softening=dict(type="fixed", tau=1.0), divergence="kl")


def segmentations():
    from mmseg.structures import SegDataSample

    labels = torch.randint(3, (2, 1, 64, 96))
    return [
        SegDataSample(metainfo=dict(img_shape=(64, 96), pad_shape=(64, 96)), gt_sem_seg=PixelData(data=one))
        for one in labels
    ]


def held(config, folder):
    torch.manual_seed(1)
    torch.save(dict(state_dict=build(config, "mmseg").state_dict()), folder / "teacher.pth")
    return dict(config=dict(model=config, default_scope="mmseg"), checkpoint=str(folder / "teacher.pth"))


@pytest.mark.parametrize(("student", "teacher"), [("mask2former", "mask2former"), ("maskformer", "mask2former")])
def test_what_is_compared_is_what_the_heads_predict(tmp_path, watch, whole_networks, student, teacher):
    """Other numbers of queries and other families compare, because positions do."""
    calls = watch(QueryMaskLogits)
    taught = held(mask_classifier(teacher, queries=9), tmp_path)
    torch.manual_seed(0)
    term = dict(student_tap="decode_head", adapter=dict(type="freqkd.QueryMaskLogits"), loss=KL)
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = Distiller(mask_classifier(student), taught, dict(loss_kd=term)).train()
    model.init_weights()
    images, samples = torch.randn(2, 3, 64, 96), segmentations()
    loss = model(images, copy.deepcopy(samples), mode="loss")["distill.loss_kd"]
    found, _ = calls[0]
    assert found["student"].shape == found["teacher"].shape == (2, 3, 16, 24)
    with torch.no_grad():  # mmseg's own prediction, at the size of the masks
        network = model.teacher.model
        metas = [dict(sample.metainfo, pad_shape=(16, 24)) for sample in samples]
        expected = network.decode_head.predict(network.extract_feat(images), metas, None)
    torch.testing.assert_close(found["teacher"].exp() - LEAST, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss, kd_loss(found["student"], found["teacher"], tau=1.0))
    assert loss > 0
    loss.backward()
    head = model.student.decode_head
    assert head.cls_embed.weight.grad.abs().sum() > 0
    assert head.mask_embed[4].weight.grad.abs().sum() > 0
    assert model.student.backbone.conv1.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_order_of_queries_does_not_matter_and_one_without_an_object_says_nothing():
    torch.manual_seed(0)
    classes, masks = torch.randn(2, 5, 4), 3 * torch.randn(2, 5, 3, 6)
    logits = position_logits([classes, masks], "student")
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(position_logits([classes[:, order], masks[:, order]], "student"), logits)
    empty = torch.tensor([-60.0, -60.0, -60.0, 60.0]).expand(2, 1, 4)
    more = [torch.cat([classes, empty], 1), torch.cat([masks, masks[:, :1]], 1)]
    torch.testing.assert_close(position_logits(more, "student"), logits)


def test_of_several_layers_the_last_one_counts_stacked_or_not():
    torch.manual_seed(0)
    classes, masks = torch.randn(3, 2, 5, 4), torch.randn(3, 2, 5, 3, 6)
    stacked, listed = position_logits([classes, masks], "student"), position_logits([*classes, *masks], "student")
    torch.testing.assert_close(stacked, listed)
    torch.testing.assert_close(stacked, position_logits([classes[-1], masks[-1]], "student"))


def test_gradients_are_finite_where_no_query_claims_a_position():
    classes, masks = torch.zeros(1, 2, 3, requires_grad=True), torch.full((1, 2, 2, 2), -80.0, requires_grad=True)
    logits = position_logits([classes, masks], "student")
    torch.testing.assert_close(logits, torch.full((1, 2, 2, 2), LEAST).log())
    logits.sum().backward()
    assert torch.isfinite(classes.grad).all()
    assert torch.isfinite(masks.grad).all()


def test_a_classifier_of_pixels_is_taken_at_its_logits_and_anything_else_is_named():
    logits = torch.randn(2, 3, 4, 6)
    assert position_logits([logits], "teacher") is logits
    with pytest.raises(
        ValueError, match=r"the teacher's tap must give class logits .*got \[\(2, 3, 4, 6\), \(2, 3, 4, 6\)\]; tap"
    ):
        position_logits([logits, logits], "teacher")
    with pytest.raises(ValueError, match=r"got \[\]"):
        position_logits([], "student")
