"""A head behind the band: the stage that trains it on the teacher's details, and the adapter that teaches through it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from mmengine.registry import DefaultScope

from freqkd.adapters.band_head import BandHead
from freqkd.adapters.base import Batch
from freqkd.losses import CrossKDBoxLoss, Subbands, freekd_loss, wavedec2, waverec2, without_low
from freqkd.models import BandHeadTuner
from freqkd.utils.checkpoints import STATE, CheckpointError, check_resumable

ALIGN = dict(type="freqkd.ConvAlign", student_channels=8, teacher_channels=16, num_levels=5)


@pytest.fixture
def tuner(teachers):
    """Return `tuner(depth=1)`: the stage on the small teacher, with other weights in its head than the teacher's."""

    def make(**options: Any) -> BandHeadTuner:
        with DefaultScope.overwrite_default_scope("mmdet"):
            model = BandHeadTuner(teachers("detection"), **options)
        model.init_weights()
        return model

    return make


@pytest.fixture
def head_file(tuner, tmp_path):
    """A checkpoint of the stage, as a training writes it, with moved weights."""
    model = tuner(depth=2)
    with torch.no_grad():
        for value in model.band_head.parameters():
            value.add_(0.1 * torch.randn_like(value))
    path = tmp_path / "epoch_1.pth"
    torch.save({"state_dict": model.state_dict(), STATE: dict(identity=model.identity())}, path)
    return str(path)


def distiller(distill, loss: Any = None, **adapter: Any) -> Any:
    options = dict(type="freqkd.BandHead", num_classes=3, **adapter)
    term = dict(student_tap="neck", align=ALIGN, adapter=options, loss=loss or dict(type="freqkd.CrossKDBoxLoss"))
    model = distill("detection", terms=dict(loss_band=term)).train()
    model.init_weights()
    return model


def losses_of(model: Any, raw: Any) -> Any:
    data = model.data_preprocessor(copy.deepcopy(raw), True)
    return model(data["inputs"], data["data_samples"], mode="loss")


# ---- details as a map -----------------------------------------------------------------------------------------------


def test_a_map_without_its_low_band_is_the_inverse_transform_of_the_details() -> None:
    feat = torch.randn(2, 3, 16, 24, dtype=torch.float64)
    for level in (1, 3):
        bands = wavedec2(feat, level=level)
        expected = waverec2(Subbands(torch.zeros_like(bands.low), bands.details), size=(16, 24))
        torch.testing.assert_close(without_low(feat, level), expected)


@pytest.mark.parametrize("size", [(7, 11), (2, 3), (1, 1), (1, 6)])
def test_its_mean_square_is_that_of_the_details_at_every_size(size: tuple[int, int]) -> None:
    student, teacher = torch.randn(2, 2, 3, *size, dtype=torch.float64)
    details = freekd_loss(student, teacher, norm="l2", band_weights="details", depth=2)
    difference = without_low(student, 2) - without_low(teacher, 2)
    torch.testing.assert_close(difference.square().mean(), details)
    torch.testing.assert_close(without_low(difference, 2), difference)  # nothing of the low band is left
    assert without_low(torch.full((1, 1, *size), 7.0), 2).abs().max() == 0
    assert without_low(student.half(), 2).dtype == torch.float16


# ---- the stage ------------------------------------------------------------------------------------------------------


def test_only_the_second_head_is_trained(tuner, small) -> None:
    model = tuner().train()
    before = copy.deepcopy(model.teacher.model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    values = []
    for _ in range(6):
        optimizer.zero_grad()
        total, log = model.parse_losses(losses_of(model, small.raw("detection")))
        assert {"loss_cls", "loss_bbox"} <= set(log)
        total.backward()
        optimizer.step()
        values.append(total.item())
    trained = dict(model.named_parameters())
    assert {name.split(".")[0] for name in trained} == {"band_head"}
    assert all(value.grad is not None for value in trained.values())
    assert values[-1] < values[0]
    after = model.teacher.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert model.teacher.model.bbox_head is not model.band_head


def test_it_starts_from_the_teachers_head_and_sees_details_alone(tuner, small) -> None:
    model = tuner(depth=2).eval()
    data = model.data_preprocessor(small.raw("detection"), False)
    network = model.teacher.model
    found = model(data["inputs"], data["data_samples"], mode="tensor")
    maps = [without_low(x, 2) for x in network.extract_feat(data["inputs"])]
    for ours, expected in zip(found, network.bbox_head(maps)):
        torch.testing.assert_close(ours, expected)
    predicted = model(data["inputs"], copy.deepcopy(data["data_samples"]), mode="predict")
    assert len(predicted) == 2
    assert all("bboxes" in sample.pred_instances for sample in predicted)


def test_what_does_not_fit_the_stage_is_refused(teachers) -> None:
    with DefaultScope.overwrite_default_scope("mmseg"):
        with pytest.raises(ValueError, match=r"the teacher must have a dense bbox_head, .* got EncoderDecoder"):
            BandHeadTuner(teachers("segmentation"))
    with pytest.raises(ValueError, match="depth must be at least 1, got 0"):
        BandHeadTuner(teachers("detection"), depth=0)
    with pytest.raises(ValueError, match=r"tap must be the path of a module, e.g. 'neck', got \['neck'\]"):
        BandHeadTuner(teachers("detection"), tap=["neck"])


def test_it_is_not_resumed_without_its_head_or_with_another_teacher(tuner) -> None:
    model = tuner()
    saved = {"state_dict": model.state_dict(), STATE: dict(identity=model.identity())}
    check_resumable(model, saved)
    with pytest.raises(CheckpointError, match=r"the checkpoint lacks 9 tensors of this training, first ..band_depth"):
        check_resumable(model, {**saved, "state_dict": {}})
    with pytest.raises(CheckpointError, match=r"cannot resume: model.teacher must be what"):
        check_resumable(model, {**saved, STATE: dict(identity={"model.teacher": "0" * 64})})


# ---- the adapter ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["all", "details", "trained"])
def test_predictions_are_those_of_the_head_on_the_students_maps(distill, small, head_file, kind, monkeypatch) -> None:
    options = dict(all={}, details=dict(bands="details", depth=2), trained=dict(bands="details", head=head_file))[kind]
    model = distiller(distill, **options)
    term = model.terms["loss_band"]
    calls: list[Any] = []
    original = BandHead.__call__

    def watched(self: BandHead, student: Any, teacher: Any, batch: Any) -> Any:
        calls.append((student, teacher, original(self, student, teacher, batch)))
        return calls[-1][2]

    monkeypatch.setattr(BandHead, "__call__", watched)
    loss = losses_of(model, small.raw("detection"))["distill.loss_band"]
    [(student, teacher, found)] = calls
    head = copy.deepcopy(model.teacher.model.bbox_head)
    if kind == "trained":
        state = torch.load(head_file, weights_only=True)["state_dict"]
        head.load_state_dict({key[10:]: value for key, value in state.items() if key.startswith("band_head.")})
    if kind != "all":
        student, teacher = ([without_low(x, 2) for x in maps] for maps in (student, teacher))
    for maps, cls, boxes in (
        (student, found["cross_cls"], found["cross_boxes"]),
        (teacher, found["cls_teacher"], found["boxes_teacher"]),
    ):
        expected_cls, expected_reg = head(maps)
        anchors = head.prior_generator.grid_priors([x.shape[-2:] for x in maps], device="cpu")
        for level in range(5):
            rows = expected_cls[level].permute(0, 2, 3, 1).reshape(2, -1, 3)
            torch.testing.assert_close(cls[level].permute(0, 3, 4, 2, 1).reshape(2, -1, 3), rows)
            deltas = expected_reg[level].permute(0, 2, 3, 1).reshape(2, -1, 4)
            decoded = torch.stack([head.bbox_coder.decode(anchors[level], one) for one in deltas])
            torch.testing.assert_close(boxes[level].permute(0, 3, 4, 2, 1).reshape(2, -1, 4), decoded)
    torch.testing.assert_close(loss, CrossKDBoxLoss()(**found))
    loss.backward()
    assert model.student.neck.fpn_convs[0].conv.weight.grad.abs().sum() > 0
    assert term.align.layers[0].weight.grad.abs().sum() > 0
    assert model.student.bbox_head.retina_cls.weight.grad is None
    assert all(value.grad is None for value in model.teacher.model.parameters())
    assert not [name for name in model.state_dict() if "band" in name and "align" not in name]


def test_a_student_that_gives_the_teachers_maps_has_nothing_left_to_learn(distill, small, head_file) -> None:
    model = distiller(distill, bands="details", head=head_file)
    maps = [torch.randn(2, 16, *size) for size in ((8, 12), (4, 6), (2, 3), (1, 2), (1, 1))]
    data = model.data_preprocessor(small.raw("detection"), True)
    batch = Batch(data["inputs"], data["inputs"], data["data_samples"], model.student, model.teacher, {}, {})
    found = model.terms["loss_band"].adapter(maps, [x.clone() for x in maps], batch)
    for ours, theirs in (("cross_cls", "cls_teacher"), ("cross_boxes", "boxes_teacher")):
        for one, other in zip(found[ours], found[theirs]):
            torch.testing.assert_close(one, other)


def test_a_resumed_distillation_needs_the_same_head(distill, head_file) -> None:
    model = distiller(distill, bands="details", head=head_file)
    identity = model.identity()
    assert set(identity) == {"model.teacher", "terms.loss_band.head"}
    other = {"state_dict": model.state_dict(), STATE: dict(identity={**identity, "terms.loss_band.head": "0" * 64})}
    with pytest.raises(CheckpointError, match=r"cannot resume: terms.loss_band.head must be what"):
        check_resumable(model, other)
    assert set(distiller(distill).identity()) == {"model.teacher"}


def test_a_head_that_does_not_fit_is_refused(distill, teachers, head_file, tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"band head not found: .*none.pth; train it first"):
        distiller(distill, bands="details", head=str(tmp_path / "none.pth"))
    with pytest.raises(CheckpointError, match="is not a checkpoint of a BandHeadTuner"):
        distiller(distill, bands="details", head=teachers("detection")["checkpoint"])
    with pytest.raises(CheckpointError, match="was trained with depth=2, but is used with depth=1; leave depth out"):
        distiller(distill, bands="details", head=head_file, depth=1)
    checkpoint = torch.load(head_file, weights_only=True)
    checkpoint[STATE]["identity"]["model.teacher"] = "0" * 64
    torch.save(checkpoint, head_file)
    with pytest.raises(
        CheckpointError, match=r"made for another teacher \(weights 000000000000, .*; train the head on"
    ):
        distiller(distill, bands="details", head=head_file)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(bands="low"), "bands must be one of 'all', 'details', got 'low'"),
        (dict(head="a.pth"), "head and depth must be None for bands='all'"),
        (dict(depth=1), "head and depth must be None for bands='all'"),
        (dict(bands="details", depth=0), "depth must be at least 1, got 0"),
        (dict(bands="details", head=3), "head must be the checkpoint of a BandHeadTuner, or None, got 3"),
        (dict(reg=None, centerness="a"), "centerness must be None where reg is None"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        BandHead(**options)
