"""Whole training steps on data other than colour images of one size with boxes in each."""

import mmcv
import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, DefaultScope
from mmengine.structures import InstanceData

LEVELS = dict(detection=5, segmentation=4)
DENSE = dict(type="freqkd.DenseLogits")
BINARY_KL = dict(type="freqkd.LogitLoss", divergence="binary_kl", activation="sigmoid")
CLASSES = dict(student_tap="bbox_head.retina_cls", loss=BINARY_KL, adapter=DENSE)
LABELLED = dict(type="freqkd.LogitLoss", softening="fixed", divergence="dkd")  # reads the labels
PIXELS = dict(student_tap="decode_head.conv_seg", loss=LABELLED, adapter=dict(type="freqkd.SegLogits"))
LOGITS = dict(detection=CLASSES, segmentation=PIXELS)


def neck(task, loss="FreeKDLoss", **options):
    """A term on the necks, of 8 channels (student) and 16 (teacher); by default of the details."""
    align = dict(type="freqkd.ConvAlign", student_channels=8, teacher_channels=16, num_levels=LEVELS[task])
    adapter = options.pop("adapter", None)
    options = options or dict(preset="details")
    return dict(student_tap="neck", align=align, adapter=adapter, loss=dict(type=f"freqkd.{loss}", **options))


def fgd():
    return neck("detection", "FGDLoss", channels=16, num_levels=5, adapter=dict(type="freqkd.GroundTruthBoxes"))


def boxes_of(samples, counts):
    """Leave the first boxes of each sample, as the pipelines of mmdet pack them."""
    from mmdet.structures.bbox import HorizontalBoxes

    for sample, count in zip(samples, counts, strict=True):
        truth = sample.gt_instances
        boxes, labels = HorizontalBoxes(truth.bboxes[:count]), truth.labels[:count]
        sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)


def train_step(model, raw):
    """Run a step; every loss is finite, and every term pulls at the student's first convolution."""
    data = model.train().data_preprocessor(raw, True)
    losses = model(**data, mode="loss")
    terms = {name: loss for name, loss in losses.items() if name.startswith("distill.loss")}
    assert {name.removeprefix("distill.") for name in terms} == set(model.terms)
    first = model.student.backbone.conv1.weight
    for loss in terms.values():
        (pull,) = torch.autograd.grad(loss, first, retain_graph=True)
        assert loss.isfinite()
        assert pull.isfinite().all()
        assert pull.abs().sum() > 0
    total, logged = model.parse_losses(losses)
    total.backward()
    assert len([name for name in logged if "loss" in name]) > len(terms) + 1  # the student's own, and the sum
    assert all(value.isfinite().all() for value in logged.values())
    gradients = [x.grad for x in model.student.parameters() if x.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    return data


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_images_of_one_and_of_four_channels(distill, small, tmp_path, task, channels):
    plain = dict(backbone__in_channels=channels, data_preprocessor__mean=None, data_preprocessor__std=None)
    plain["data_preprocessor__bgr_to_rgb"] = False
    network = small.config(task, 8, **plain)
    torch.save(dict(state_dict=small.build(network, task).state_dict()), tmp_path / "teacher.pth")
    scope = dict(detection="mmdet", segmentation="mmseg")[task]
    teacher = dict(config=dict(model=network, default_scope=scope), checkpoint=str(tmp_path / "teacher.pth"))
    terms = dict(loss_details=neck(task))
    model = distill(task, terms=terms, student=small.config(task, 4, **plain), teacher=teacher)
    raw = small.raw(task)
    raw["inputs"] = [image.repeat(2, 1, 1)[:channels] for image in raw["inputs"]]
    assert train_step(model, raw)["inputs"].shape == (2, channels, 64, 96)
    assert model.student.backbone.conv1.weight.shape[1] == channels


@pytest.mark.parametrize("counts", [(2, 0), (0, 0)])
def test_images_without_boxes(distill, small, counts):
    by_boxes = dict(CLASSES, adapter=dict(DENSE, normalizer="boxes"))
    terms = dict(loss_details=neck("detection"), loss_kd=CLASSES, loss_sum=by_boxes, loss_fgd=fgd())
    raw = small.raw("detection")
    boxes_of(raw["data_samples"], counts)
    data = train_step(distill("detection", terms=terms), raw)
    assert tuple(len(sample.gt_instances) for sample in data["data_samples"]) == counts


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_images_of_several_sizes_in_a_batch(distill, small, task):
    terms = dict(loss_details=neck(task), loss_logits=LOGITS[task])
    if task == "detection":
        terms["loss_fgd"] = fgd()
    data = train_step(distill(task, terms=terms), small.raw(task, ((64, 96), (50, 60))))
    assert data["inputs"].shape == (2, 3, 64, 96)
    assert data["inputs"][1, :, 50:].abs().sum() == data["inputs"][1, :, :, 60:].abs().sum() == 0


def test_labels_of_a_data_set_without_its_label_0(distill, tmp_path):
    """`reduce_zero_label`: 0 becomes the ignored 255, every other label one less, before any loss reads it."""
    noise = np.random.default_rng(0)
    stored = np.array([0, 1, 2, 3, 4, 5, 255])[noise.integers(0, 7, (8, 12))].astype(np.uint8)
    mmcv.imwrite(noise.integers(0, 256, (64, 96, 3), dtype=np.uint8), str(tmp_path / "images" / "one.png"))
    mmcv.imwrite(np.kron(stored, np.ones((8, 8), np.uint8)), str(tmp_path / "labels" / "one.png"))
    steps = ({"type": "LoadImageFromFile"}, {"type": "LoadAnnotations", "reduce_zero_label": True})
    config = dict(
        type="BaseSegDataset",
        data_prefix=dict(img_path=str(tmp_path / "images"), seg_map_path=str(tmp_path / "labels")),
        img_suffix=".png",
        reduce_zero_label=True,
        pipeline=[*steps, {"type": "PackSegInputs"}],
    )
    with DefaultScope.overwrite_default_scope("mmseg"):
        dataset = DATASETS.build(config)
    model = distill("segmentation", terms=dict(loss_logits=PIXELS)).train()
    seen = []
    model.terms["loss_logits"].loss.register_forward_pre_hook(lambda _, __, given: seen.append(given), with_kwargs=True)
    data = model.data_preprocessor(pseudo_collate([dataset[0], dataset[0]]), True)
    loss = model(**data, mode="loss")["distill.loss_logits"]
    assert loss.isfinite()
    (given,) = seen
    shifted = np.where(np.isin(stored, (0, 255)), 255, stored.astype(int) - 1)
    expected = torch.from_numpy(np.kron(shifted, np.ones((2, 2), int)))  # logits have a quarter of the image's size
    assert torch.equal(given["target"], expected.expand(2, -1, -1))
    (pull,) = torch.autograd.grad(loss, given["student"])
    assert torch.equal(pull.abs().sum(1) > 0, given["target"] != 255)
