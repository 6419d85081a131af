"""Adapters check that a logit loss and a head have the same activation, softmax or sigmoid."""

from types import SimpleNamespace

import pytest
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope
from torch import nn

import freqkd.registry  # noqa: F401
from freqkd.adapters.cross_head import CrossHead
from freqkd.adapters.dense import DenseLogits
from freqkd.adapters.heads import check_activation, describe_head, find_head
from freqkd.adapters.proposals import ProposalLogits
from freqkd.adapters.queries import QueryLogits
from freqkd.losses import LogitLoss, MLKDLoss, MSELoss
from freqkd.models.term import DistillTerm
from freqkd.utils.compat import read_config

pytestmark = pytest.mark.usefixtures("whole_networks")

SOFTMAX, SIGMOID = dict(type="CrossEntropyLoss"), dict(type="FocalLoss", use_sigmoid=True)
GRID = [
    ("kl", "softmax"),
    ("dist", "softmax"),
    ("mse", "softmax"),
    ("binary_kl", "sigmoid"),
    ("quality_focal", "sigmoid"),
    ("dist", "sigmoid"),
]


def detector(name, loss_cls):
    """A small detector of mmdet: only its head is looked at."""
    model = read_config(name).model
    model.backbone.update(init_cfg=None)
    model.bbox_head.loss_cls = loss_cls
    with DefaultScope.overwrite_default_scope("mmdet"):
        return MODELS.build(ConfigDict(model))


@pytest.fixture(scope="module")
def heads():
    return {
        ("dense", kind): detector("mmdet::retinanet/retinanet_r18_fpn_1x_coco.py", loss)
        for kind, loss in (("sigmoid", SIGMOID), ("softmax", SOFTMAX))
    } | {
        ("query", "softmax"): detector("mmdet::detr/detr_r50_8xb2-150e_coco.py", SOFTMAX),
        ("query", "sigmoid"): detector("mmdet::detr/detr_r50_8xb2-150e_coco.py", SIGMOID),
    }


@pytest.mark.parametrize(("divergence", "activation"), GRID)
@pytest.mark.parametrize("owner", ["student", "teacher"])
@pytest.mark.parametrize("head", ["sigmoid", "softmax"])
@pytest.mark.parametrize("adapter", ["dense", "query"])
def test_the_head_and_the_loss_are_of_one_kind(heads, adapter, head, owner, divergence, activation):
    loss = LogitLoss(divergence=divergence, activation=activation)
    made = DenseLogits(num_classes=80) if adapter == "dense" else QueryLogits()
    term = DistillTerm(loss, "bbox_head.retina_cls" if adapter == "dense" else "bbox_head", adapter=made)
    if head == activation:
        term.check_network("loss_kd", owner, heads[adapter, head])
        return
    words = (
        f"activation must be '{head}', as the {owner}'s .*Head has use_sigmoid={head == 'sigmoid'}, got '{activation}'"
    )
    fix = f"set activation='{head}', with a divergence for it: .*{'binary_kl' if head == 'sigmoid' else 'kl, dkd, nkd'}"
    with pytest.raises(ValueError, match=f"terms.loss_kd: the loss's {words}; {fix}"):
        term.check_network("loss_kd", owner, heads[adapter, head])


@pytest.mark.parametrize("task_head", ["student", "teacher"])
def test_it_is_said_when_the_distiller_is_built_or_prepared(tmp_path, task_head):
    import torch

    from freqkd.models import Distiller

    sigmoid, softmax = (read_config("mmdet::retinanet/retinanet_r18_fpn_1x_coco.py").model for _ in range(2))
    for model in (sigmoid, softmax):
        model.backbone.init_cfg = None
    softmax.bbox_head.loss_cls = SOFTMAX
    student, teacher = (sigmoid, softmax) if task_head == "student" else (softmax, sigmoid)
    with DefaultScope.overwrite_default_scope("mmdet"):
        torch.save(dict(state_dict=MODELS.build(ConfigDict(teacher)).state_dict()), tmp_path / "teacher.pth")
        held = dict(config=dict(model=teacher, default_scope="mmdet"), checkpoint=str(tmp_path / "teacher.pth"))
        loss = dict(type="freqkd.LogitLoss", divergence="kl")
        term = dict(
            student_tap="bbox_head.retina_cls", adapter=dict(type="freqkd.DenseLogits", num_classes=80), loss=loss
        )
        with pytest.raises(ValueError, match=f"terms.loss_kd: .* as the {task_head}'s RetinaHead has use_sigmoid=True"):
            Distiller(student, held, dict(loss_kd=term)).prepare()


def test_the_other_adapters_of_logits_look_at_their_heads_too(heads):
    cross = DistillTerm(LogitLoss(), adapter=CrossHead(cls="retina_cls", reg=None, num_classes=80))
    cross.check_network("loss_kd", "teacher", heads["dense", "softmax"])
    with pytest.raises(ValueError, match="the student's RetinaHead has use_sigmoid=True"):
        cross.check_network("loss_kd", "student", heads["dense", "sigmoid"])
    box_head = nn.Module()
    box_head.loss_cls = SimpleNamespace(use_sigmoid=False)
    network = nn.ModuleDict(dict(roi_head=nn.ModuleDict(dict(bbox_head=box_head))))
    ProposalLogits().check_head(network, "roi_head.bbox_head", LogitLoss(), "teacher")
    with pytest.raises(ValueError, match="activation must be 'softmax', as the teacher's Module has use_sigmoid=False"):
        ProposalLogits().check_head(
            network, "roi_head.bbox_head", LogitLoss("fixed", "mse", activation="sigmoid"), "teacher"
        )


@pytest.mark.parametrize("loss", [MSELoss(), MLKDLoss(), nn.ReLU()])
def test_a_loss_that_names_no_activation_is_not_checked(heads, loss):
    check_activation(heads["dense", "sigmoid"].bbox_head, loss, "student")


@pytest.mark.parametrize("head", [None, nn.Identity(), SimpleNamespace(loss_cls=nn.Identity())])
def test_a_head_that_does_not_say_is_not_checked(head):
    check_activation(head, LogitLoss(), "student")


def test_the_head_is_the_outermost_module_with_a_class_loss(heads):
    model = heads["dense", "sigmoid"]
    assert find_head(model, "bbox_head.cls_convs.0.conv") is model.bbox_head
    assert find_head(model, "neck.fpn_convs.0") is None
    softmax = describe_head(heads["query", "softmax"], "bbox_head")
    assert (softmax.family, softmax.activation, softmax.num_classes, softmax.channels) == ("queries", "softmax", 80, 81)
