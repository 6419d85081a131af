"""A head says its activation, classes, anchors and ignored label, and adapters read them."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from freqkd.adapters.base import Batch
from freqkd.adapters.dense import DenseLogits, unfold_anchors
from freqkd.adapters.heads import HeadKind, check_bare_tap, describe_head
from freqkd.adapters.scores import ScoreMaps
from freqkd.adapters.segmentation import SegLogits
from freqkd.losses import LogitLoss
from freqkd.models.term import DistillTerm

SOFTMAX = dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0)
BCE = dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0)


@pytest.fixture(scope="module")
def networks(small):
    """Small networks by their kind of head."""

    def segmenter(**head):
        config = small.config("segmentation", 4)
        config["decode_head"].update(head)
        return small.build(config, "segmentation")

    softmax = small.config("detection", 4)
    softmax["bbox_head"]["loss_cls"] = SOFTMAX
    return dict(
        dense=small.build(small.config("detection", 4), "detection"),
        softmax_dense=small.build(softmax, "detection"),
        segmenter=segmenter(),
        zero_ignored=segmenter(ignore_index=0),
        binary=segmenter(num_classes=2, out_channels=1, loss_decode=BCE, threshold=0.3),
        binary_by_its_channel=segmenter(num_classes=2, out_channels=1, threshold=0.3),
        two_losses=segmenter(loss_decode=[dict(SOFTMAX, loss_name="loss_ce"), dict(type="DiceLoss", use_sigmoid=True)]),
    )


@pytest.mark.parametrize(
    ("name", "path", "kind"),
    [
        ("dense", "bbox_head.retina_cls", HeadKind("RetinaHead", "dense", "sigmoid", 3, 3, (9,))),
        ("softmax_dense", "bbox_head", HeadKind("RetinaHead", "dense", "softmax", 3, 4, (9,))),
        ("dense", "neck", None),
        ("segmenter", "decode_head.conv_seg", HeadKind("FPNHead", "segmentation", "softmax", 5, 5, (), 255)),
        ("segmenter", "auxiliary_head.conv_seg", HeadKind("FCNHead", "segmentation", "softmax", 5, 5, (), 255)),
        ("zero_ignored", "decode_head.conv_seg", HeadKind("FPNHead", "segmentation", "softmax", 5, 5, (), 0)),
        ("binary", "decode_head.conv_seg", HeadKind("FPNHead", "segmentation", "sigmoid", 2, 1, (), 255)),
        ("binary_by_its_channel", "decode_head", HeadKind("FPNHead", "segmentation", "sigmoid", 2, 1, (), 255)),
        ("two_losses", "decode_head.conv_seg", HeadKind("FPNHead", "segmentation", None, 5, 5, (), 255)),
    ],
)
def test_what_a_head_says(networks, name, path, kind):
    assert describe_head(networks[name], path) == kind


@pytest.mark.usefixtures("whole_networks")
def test_heads_with_anchors_that_differ_by_level_and_box_heads():
    with DefaultScope.overwrite_default_scope("mmdet"):
        ssd = MODELS.build(
            ConfigDict(
                type="SSDHead",
                num_classes=3,
                in_channels=(8, 8),
                anchor_generator=dict(
                    type="SSDAnchorGenerator",
                    min_sizes=[8, 16],
                    max_sizes=[16, 32],
                    input_size=64,
                    strides=[8, 16],
                    ratios=[[2], [2, 3]],
                ),
            )
        )
        box = MODELS.build(ConfigDict(type="Shared2FCBBoxHead", in_channels=4, fc_out_channels=4, num_classes=3))
    kind = describe_head(nn.ModuleDict(dict(bbox_head=ssd)), "bbox_head")
    assert (kind.anchors, kind.channels, kind.layout) == ((4, 6), 4, "4 or 6 anchors x 4 classes")
    assert kind.activation == "softmax"
    network = nn.ModuleDict(dict(roi_head=nn.ModuleDict(dict(bbox_head=box))))
    assert describe_head(network, "roi_head.bbox_head.fc_cls") == HeadKind(
        "Shared2FCBBoxHead", "proposals", "softmax", 3, 4
    )


# ---- a logit loss without an adapter ---------------------------------------------------------------------------------


@pytest.mark.parametrize("owner", ["student", "teacher"])
def test_a_class_map_of_several_anchors_is_not_one_softmax(networks, owner):
    term = DistillTerm(LogitLoss(), "bbox_head.retina_cls")
    with pytest.raises(
        ValueError, match=rf"terms.loss_kd: adapter must be given .* {owner}'s RetinaHead, .* 9 anchors x 4"
    ):
        term.check_network("loss_kd", owner, networks["softmax_dense"])
    with pytest.raises(ValueError, match=r"add adapter=dict\(type='freqkd.DenseLogits'\)"):
        check_bare_tap(networks["dense"], "bbox_head.retina_cls", LogitLoss(divergence="binary_kl"), owner)


def test_rows_of_other_boxes_are_not_compared(networks):
    head = nn.ModuleDict(dict(loss_cls=nn.Identity(), fc_cls=nn.Linear(2, 4)))
    two_stage = nn.ModuleDict(dict(roi_head=nn.ModuleDict(dict(bbox_head=head))))
    with pytest.raises(ValueError, match=r"own sampled proposals, .*'freqkd.ProposalLogits'"):
        check_bare_tap(two_stage, "roi_head.bbox_head.fc_cls", LogitLoss(), "student")
    detr = nn.ModuleDict(dict(bbox_head=nn.ModuleDict(dict(loss_cls=nn.Identity()))))
    detr.forward_transformer = None
    with pytest.raises(ValueError, match=r"own queries, .*'freqkd.QueryLogits'"):
        check_bare_tap(detr, "bbox_head", LogitLoss(), "student")


def test_what_needs_no_adapter_goes_on(networks):
    one = nn.ModuleDict(dict(loss_cls=nn.Identity(), conv_cls=nn.Conv2d(2, 3, 1)))
    one.use_sigmoid_cls = True
    fcos = nn.ModuleDict(dict(bbox_head=one))
    check_bare_tap(fcos, "bbox_head.conv_cls", LogitLoss(divergence="binary_kl"), "student")
    with pytest.raises(ValueError, match="activation must be 'sigmoid'"):
        check_bare_tap(fcos, "bbox_head.conv_cls", LogitLoss(), "student")
    check_bare_tap(networks["segmenter"], "decode_head.conv_seg", LogitLoss(), "student")
    check_bare_tap(networks["dense"], "neck", LogitLoss(), "student")
    check_bare_tap(networks["dense"], "bbox_head.retina_cls", nn.MSELoss(), "student")


# ---- dense heads -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "channels"), [("dense", 3), ("softmax_dense", 4)])
def test_dense_logits_take_the_classes_and_the_activation_from_the_head(networks, name, channels):
    loss, adapter = LogitLoss(divergence="dist"), DenseLogits()
    term = DistillTerm(loss, "bbox_head.retina_cls", adapter=adapter)
    for owner in ("student", "teacher"):
        term.check_network("loss_kd", owner, networks[name])
    assert loss.activation == describe_head(networks[name], "bbox_head").activation
    maps = torch.randn(2, 9 * channels, 2, 3)
    found = adapter([maps], [maps], None)["student"][0]
    torch.testing.assert_close(found, unfold_anchors(maps, channels))


def test_another_layer_or_number_of_classes_is_not_unfolded(networks):
    adapter = DenseLogits()
    for owner in ("student", "teacher"):
        adapter.check_head(networks["dense"], "bbox_head.retina_reg", nn.MSELoss(), owner)
    boxes = torch.zeros(2, 36, 2, 3)  # 12 times 3: it would pass for classes
    with pytest.raises(
        ValueError, match="class map of RetinaHead must be 9 anchors x 3 classes, got 36; tap the class"
    ):
        adapter([boxes], [boxes], None)
    with pytest.raises(ValueError, match="num_classes must be 3, as in the teacher's RetinaHead, got 9; leave it out"):
        DenseLogits(num_classes=9).check_head(networks["dense"], "bbox_head.retina_cls", LogitLoss(), "teacher")
    with pytest.raises(ValueError, match="num_classes must be given, as the student's has no head there"):
        DenseLogits().check_head(networks["dense"], "neck", LogitLoss(), "student")


@pytest.mark.parametrize(("name", "channels"), [("dense", 3), ("softmax_dense", 4)])
def test_scores_are_those_of_the_heads_classes_without_background(networks, name, channels):
    adapter = ScoreMaps("bbox_head.retina_cls")
    adapter.check_head(networks[name], "neck", nn.MSELoss(), "teacher")
    logits = torch.randn(2, 9 * channels, 2, 3)
    batch = SimpleNamespace(teacher_feats={"bbox_head.retina_cls": [logits]})
    found = adapter([torch.zeros(2, 1, 2, 3)], [torch.zeros(2, 1, 2, 3)], batch)["weight_maps"][0]
    rows = logits.view(2, 9, channels, 2, 3)
    scores = rows.sigmoid() if channels == 3 else rows.softmax(2)[:, :, :3]
    torch.testing.assert_close(found, scores.amax((1, 2))[:, None])


def test_scores_of_another_activation_are_refused(networks):
    with pytest.raises(ValueError, match="activation must be 'softmax', as in the teacher's RetinaHead, got 'sigmoid'"):
        ScoreMaps("bbox_head", activation="sigmoid").check_head(networks["softmax_dense"], "neck", nn.ReLU(), "teacher")
    with pytest.raises(ValueError, match="num_classes must be at least 2 for activation='softmax'"):
        ScoreMaps("bbox_head", 1, "softmax")


# ---- segmenters ------------------------------------------------------------------------------------------------------

CONV_SEG = "decode_head.conv_seg"


def term_of(networks, name, loss):
    term = DistillTerm(loss, CONV_SEG, adapter=SegLogits())
    for owner in ("student", "teacher"):
        term.check_network("loss_kd", owner, networks[name])
    return term


def batch_of(labels, network):
    samples = [SimpleNamespace(gt_sem_seg=SimpleNamespace(data=one[None])) for one in labels]
    inputs = torch.zeros(len(labels), 3, *labels.shape[-2:])
    return Batch(inputs, inputs, samples, network, None, {}, {})


@pytest.fixture
def foreground():
    """2 x 2 logits of one channel, and their labels, of which one is ignored."""
    torch.manual_seed(0)
    student = torch.randn(1, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    return student, torch.randn(1, 1, 2, 2, dtype=torch.float64), torch.tensor([[[0, 1], [255, 1]]])


@pytest.mark.parametrize("name", ["binary", "binary_by_its_channel"])
@pytest.mark.parametrize("divergence", ["kl", "dkd", "nkd"])
def test_one_channel_has_no_softmax(networks, name, divergence):
    words = "activation must be 'sigmoid', as the student's FPNHead has out_channels=1, .* dist, mse, binary_kl, quality_focal"
    with pytest.raises(ValueError, match=words):
        term_of(networks, name, LogitLoss(divergence=divergence))


def test_binary_kl_counts_foreground_and_background_alike(networks, foreground):
    student, teacher, labels = foreground
    term = term_of(networks, "binary", LogitLoss(dict(type="fixed", tau=1.0), "binary_kl", ignore_index=255))
    found = term([student], [teacher], batch_of(labels, networks["binary"]))
    p, q = student.sigmoid(), teacher.sigmoid()
    each = (q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log())[:, 0]
    torch.testing.assert_close(found, each[labels != 255].mean())
    found.backward()
    assert (student.grad[0, 0] != 0).tolist() == [[True, True], [False, True]]


def test_dist_of_one_channel_follows_the_samples(networks, foreground):
    student, teacher, labels = foreground
    term = term_of(networks, "binary", LogitLoss(divergence="dist", ignore_index=255))
    found = term([student], [teacher], batch_of(labels, networks["binary"]))
    other = term([student], [teacher.flip(3)], batch_of(labels, networks["binary"]))
    assert abs(found - other) > 1e-3
    found.backward()
    assert student.grad.abs().sum() > 0


def test_weights_and_regions_read_the_labels_of_one_channel(networks, foreground):
    student, teacher, labels = foreground
    batch = batch_of(labels, networks["binary"])
    options = dict(softening=dict(type="fixed", tau=1.0), divergence="mse", ignore_index=255)
    weighted = term_of(networks, "binary", LogitLoss(class_weight=[3.0, 1.0], **options))
    each = (student - teacher).square()[0, 0]
    expected = (each[0, 0] + 3 * each[0, 1] + 3 * each[1, 1]) / 7  # the foreground is class 0 of the loss
    torch.testing.assert_close(weighted([student], [teacher], batch), expected)
    short = term_of(networks, "binary", LogitLoss(class_weight=[3.0], **options))
    with pytest.raises(ValueError, match="must have 2 entries, one for each class and for background, label 1"):
        short([student], [teacher], batch)
    regions = term_of(networks, "binary", LogitLoss(regions=dict(scales=(1, 2)), **options))
    assert torch.isfinite(regions([student], [teacher], batch))


@pytest.mark.parametrize(("name", "label"), [("segmenter", 255), ("zero_ignored", 0)])
def test_a_loss_that_reads_labels_leaves_out_what_the_head_ignores(networks, name, label):
    torch.manual_seed(0)
    student, teacher = torch.randn(1, 5, 2, 2), torch.randn(1, 5, 2, 2)
    labels = torch.tensor([[[1, label], [label, 3]]])
    term = term_of(networks, name, LogitLoss(divergence="dkd"))
    found = term([student], [teacher], batch_of(labels, networks[name]))
    rows = [x[0, :, [0, 1], [0, 1]].t() for x in (student, teacher)]
    torch.testing.assert_close(found, LogitLoss(divergence="dkd")(*rows, torch.tensor([1, 3])))
    unlabelled = SimpleNamespace(gt_sem_seg=None)
    empty = Batch(torch.zeros(1, 3, 2, 2), None, [unlabelled], networks[name], None, {}, {})
    assert term([student], [teacher], empty) == 0


def test_what_is_stated_is_kept(networks):
    stated = LogitLoss(divergence="dkd", ignore_index=4)
    term_of(networks, "zero_ignored", stated)
    every = LogitLoss(divergence="kl")  # reads no label: every position counts
    term_of(networks, "zero_ignored", every)
    assert (stated.ignore_index, every.ignore_index) == (4, None)
    with pytest.raises(
        ValueError, match="activation must be 'softmax', as the student's FPNHead has use_sigmoid=False"
    ):
        term_of(networks, "segmenter", LogitLoss(divergence="dist", activation="sigmoid"))
    loss = LogitLoss(divergence="dist", activation="sigmoid")
    term_of(networks, "two_losses", loss)  # the losses of this head disagree
    assert loss.activation == "sigmoid"


def test_features_are_no_logits(networks):
    term = term_of(networks, "segmenter", LogitLoss())
    features = torch.zeros(1, 8, 2, 2)
    with pytest.raises(ValueError, match="the student's map must be the 5 class logits of its FPNHead, got 8 channels"):
        term([features], [features], batch_of(torch.zeros(1, 2, 2, dtype=torch.long), networks["segmenter"]))


def test_an_open_activation_goes_with_the_softening():
    assert LogitLoss(divergence="binary_kl").activation == "sigmoid"
    assert LogitLoss(divergence="dist").activation == LogitLoss(divergence="kl").activation == "softmax"
    with pytest.raises(ValueError, match="softening 'standardized' does not go with activation 'sigmoid'"):
        LogitLoss("standardized", "dist").take_activation("sigmoid")
    twice = LogitLoss(divergence="dist")
    twice.take_activation("sigmoid")
    twice.take_activation("softmax")  # the student's head has spoken
    assert twice.activation == "sigmoid"


def test_a_binary_segmenter_learns_from_another(small, distill, tmp_path):
    heads = {
        f"{name}__{key}": value
        for name in ("decode_head", "auxiliary_head")
        for key, value in dict(num_classes=2, out_channels=1, threshold=0.3, loss_decode__use_sigmoid=True).items()
    }
    student, config = small.config("segmentation", 4, **heads), small.config("segmentation", 8, **heads)
    teacher = dict(config=dict(default_scope="mmseg", model=config), checkpoint=str(tmp_path / "teacher.pth"))
    torch.save(dict(state_dict=small.build(config, "segmentation").state_dict()), teacher["checkpoint"])
    term = dict(
        student_tap=CONV_SEG,
        adapter=dict(type="freqkd.SegLogits"),
        loss=dict(type="freqkd.LogitLoss", divergence="binary_kl", ignore_index=255),
    )
    model = distill("segmentation", terms=dict(loss_kd=term), student=student, teacher=teacher).train()
    data = small.raw("segmentation")
    for sample in data["data_samples"]:
        sample.gt_sem_seg.data %= 2
        sample.gt_sem_seg.data[:, :8] = 255
    losses = model(**model.data_preprocessor(data, True), mode="loss")
    assert losses["distill.loss_kd"] > 0
    losses["distill.loss_kd"].backward()
    assert model.student.decode_head.conv_seg.weight.grad.abs().sum() > 0
