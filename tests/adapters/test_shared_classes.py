"""Class logits are reduced to the classes that student and teacher share, and a learned align before them is refused."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.structures import PixelData

from freqkd.adapters.base import Batch
from freqkd.adapters.classes import SharedClasses, build_shared, is_class_map
from freqkd.adapters.dense import DenseLogits, unfold_anchors
from freqkd.adapters.segmentation import SegLogits
from freqkd.losses import LogitLoss

PAIRS = [(0, 4), (2, 1)]
FOCAL = dict(type="freqkd.LogitLoss", divergence="quality_focal", activation="sigmoid")


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ("common", "classes must be None, 'shared' or pairs of indices"),
        ([], "pairs of indices"),
        ([(0, 1, 2)], "pairs of indices"),
        ([(0, -1)], "pairs of indices"),
        ([(0, True)], "pairs of indices"),
        ([(0, 1.0)], "pairs of indices"),
        (["01"], "pairs of indices"),
        ([(0, 1), (0, 2)], r"each index of the student once, got \[0, 0\]"),
        ([(0, 1), (2, 1)], r"each index of the teacher once, got \[1, 1\]"),
    ],
)
def test_wrong_pairs_are_refused(classes, words):
    with pytest.raises(ValueError, match=words):
        build_shared(classes)


def test_the_background_is_no_class():
    shared = SharedClasses([(3, 0)])
    assert shared.select(torch.zeros(2, 5), "student", background=True).shape == (2, 2)
    with pytest.raises(ValueError, match="classes must be indices below 3, the student's number of classes, got 3"):
        shared.select(torch.zeros(2, 4), "student", background=True)


@pytest.mark.parametrize("sigmoid", [True, False])
def test_dense_heads_of_other_classes(small, sigmoid):
    """Student and teacher have 3 and 5 classes; those of a softmax head keep the background, the last one."""
    loss_cls = dict(type="FocalLoss", use_sigmoid=True) if sigmoid else dict(type="CrossEntropyLoss", use_sigmoid=False)
    adapter = DenseLogits(classes=PAIRS)
    loss = LogitLoss(divergence="binary_kl", activation="sigmoid") if sigmoid else LogitLoss(divergence="kl")
    maps = {}
    for owner, count in (("student", 3), ("teacher", 5)):
        config = small.config("detection", 4, bbox_head__num_classes=count)
        config["bbox_head"]["loss_cls"] = loss_cls
        adapter.check_head(small.build(config, "detection"), "bbox_head.retina_cls", loss, owner)
        maps[owner] = torch.randn(2, 9 * (count + (not sigmoid)), 3, 4)
    found = adapter([maps["student"]], [maps["teacher"]], None)
    for place, (owner, count) in enumerate((("student", 3), ("teacher", 5))):
        chosen = [pair[place] for pair in PAIRS] + ([] if sigmoid else [count])
        whole = unfold_anchors(maps[owner], count + (not sigmoid))
        assert torch.equal(found[owner][0], whole[:, chosen])


def test_a_teacher_of_another_order_teaches_nothing_new_where_the_pairs_say_so(small):
    """The same head with its classes in another order: equal by pairs, unequal by place."""
    order = [2, 0, 1]
    logits = torch.randn(1, 3, 9, 2, 2)
    maps = [x.transpose(1, 2).flatten(1, 2) for x in (logits, logits[:, order])]
    loss = LogitLoss(divergence="binary_kl", activation="sigmoid")
    student = small.build(small.config("detection", 4), "detection")
    values = {}
    for name, classes in (("pairs", [(old, new) for new, old in enumerate(order)]), ("places", None)):
        adapter = DenseLogits(classes=classes)
        for owner in ("student", "teacher"):
            adapter.check_head(student, "bbox_head.retina_cls", loss, owner)
        values[name] = float(loss(**adapter([maps[0]], [maps[1]], None)))
    assert abs(values["pairs"]) < 1e-6 < 0.01 < values["places"]


def segmenter(ignore_index):
    """A network with a head of five classes."""
    from mmseg.models.decode_heads import FCNHead

    head = FCNHead(in_channels=4, channels=4, num_convs=1, num_classes=5, ignore_index=ignore_index)
    return torch.nn.ModuleDict(dict(decode_head=head))


def test_labels_of_other_classes_are_ignored_in_segmentation():
    labels = torch.tensor([[[0, 1], [2, 255]]])
    samples = [SimpleNamespace(gt_sem_seg=PixelData(data=labels))]
    inputs = torch.zeros(1, 3, 2, 2)
    batch = Batch(inputs, inputs, samples, torch.nn.Identity(), None, {}, {})
    student, teacher = torch.randn(1, 3, 2, 2), torch.randn(1, 5, 2, 2)
    found = SegLogits(classes=PAIRS)([student], [teacher], batch)
    assert torch.equal(found["student"], student[:, [0, 2]])
    assert torch.equal(found["teacher"], teacher[:, [4, 1]])
    assert found["target"].tolist() == [[[0, 255], [1, 255]]]


def test_positions_of_other_classes_do_not_count():
    torch.manual_seed(0)
    network, loss = segmenter(ignore_index=255), LogitLoss("fixed", "kl")
    adapter = SegLogits(classes=PAIRS)
    for owner in ("student", "teacher"):
        adapter.check_head(network, "decode_head.conv_seg", loss, owner)
    samples = [SimpleNamespace(gt_sem_seg=PixelData(data=torch.tensor([[[0, 1], [2, 255]]])))]
    inputs = torch.zeros(1, 3, 2, 2)
    batch = Batch(inputs, inputs, samples, torch.nn.Identity(), None, {}, {})
    student, teacher = torch.randn(1, 5, 2, 2), torch.randn(1, 5, 2, 2)
    before = loss(**adapter([student], [teacher], batch))
    changed = student.clone()
    changed[:, :, 0, 1] += torch.randn(1, 5)  # labels 1 and 255 are of no shared class
    changed[:, :, 1, 1] += torch.randn(1, 5)
    assert torch.equal(loss(**adapter([changed], [teacher], batch)), before)
    changed[:, :, 0, 0] += torch.randn(1, 5)
    assert not torch.equal(loss(**adapter([changed], [teacher], batch)), before)


def test_an_ignored_label_that_would_become_a_class_is_refused():
    with pytest.raises(ValueError, match="ignore_index must not be one of the 2 labels that the loss compares, got 0"):
        SegLogits(classes=PAIRS).check_head(
            segmenter(ignore_index=0), "decode_head.conv_seg", LogitLoss("fixed", "kl"), "student"
        )


def test_labels_become_indices_of_the_shared_classes():
    torch.manual_seed(0)
    labels = torch.randint(-1, 12, (2, 30, 40))
    labels[0, 0, 0] = 255
    shared = SharedClasses([(7, 0), (2, 1), (9, 2)])
    expected = torch.full_like(labels, 5)
    for index, label in enumerate((7, 2, 9)):
        expected[labels == label] = index
    assert torch.equal(shared.relabel(labels, 5), expected)


def test_names_that_nobody_looked_up_are_said():
    adapter = SegLogits(classes="shared")
    inputs = torch.zeros(1, 3, 2, 2)
    batch = Batch(inputs, inputs, [object()], torch.nn.Identity(), None, {}, {})
    with pytest.raises(
        ValueError, match=r"classes='shared' is looked up by freqkd train.*classes=\[\(student, teacher\)"
    ):
        adapter([torch.zeros(1, 3, 2, 2)], [torch.zeros(1, 3, 2, 2)], batch)


@pytest.mark.parametrize(
    ("task", "path", "given"),
    [
        ("detection", "bbox_head", True),
        ("detection", "bbox_head.retina_cls", True),
        ("detection", "bbox_head.retina_reg", False),
        ("detection", "bbox_head.cls_convs.0", False),
        ("detection", "neck", False),
        ("segmentation", "decode_head.conv_seg", True),
        ("segmentation", "decode_head.scale_heads.0", False),
        ("segmentation", "backbone.layer4", False),
    ],
)
def test_class_maps_are_told_from_features(small, task, path, given):
    assert is_class_map(small.build(small.config(task, 4), task), path) is given


@pytest.mark.parametrize(
    ("task", "tap", "options"),
    [
        ("detection", "bbox_head.retina_cls", dict(adapter=dict(type="freqkd.DenseLogits"), loss=FOCAL)),
        ("detection", "bbox_head.retina_cls", dict(loss=dict(type="freqkd.MSELoss"))),
        (
            "segmentation",
            "decode_head.conv_seg",
            dict(adapter=dict(type="freqkd.SegLogits"), loss=dict(type="freqkd.LogitLoss")),
        ),
        ("segmentation", "decode_head.conv_seg", dict(loss=dict(type="freqkd.CWDLoss"))),
    ],
)
def test_a_learned_align_before_class_logits_is_refused(distill, task, tap, options):
    width = 27 if task == "detection" else 5
    levels = 5 if task == "detection" else 1
    align = dict(type="freqkd.ConvAlign", student_channels=width, teacher_channels=width, num_levels=levels)
    with pytest.raises(
        ValueError, match=r"terms\.loss_kd: align must be left out before .*got ConvAlign.*mix the classes"
    ):
        distill(task, terms=dict(loss_kd=dict(student_tap=tap, align=align, **options)))
    distill(task, terms=dict(loss_kd=dict(student_tap=tap, align=dict(type="freqkd.ResizeAlign"), **options)))
    distill(
        task,
        terms=dict(
            loss_mse=dict(align=dict(align, student_channels=8, teacher_channels=16), loss=dict(type="freqkd.MSELoss"))
        ),
    )
