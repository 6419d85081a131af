"""A distiller is its student to everyone but the loss."""

import copy

import pytest
import torch
from mmengine.logging import MessageHub
from torch import nn

TASKS = ("detection", "segmentation")
MSE = dict(
    loss=dict(type="freqkd.MSELoss"), align=dict(type="freqkd.ConvAlign", student_channels=8, teacher_channels=16)
)


def loss_of(model, raw):
    data = model.data_preprocessor(copy.deepcopy(raw), True)
    return model(data["inputs"], data["data_samples"], mode="loss")


def test_its_parameters_are_named_as_the_students(distill, small):
    model = distill("segmentation")
    names = dict(model.named_parameters())
    plain = list(dict(small.build(small.config("segmentation", 4), "segmentation").named_parameters()))
    assert list(names)[: len(plain)] == plain
    assert names["backbone.conv1.weight"] is model.student.backbone.conv1.weight
    assert "x.backbone.conv1.weight" in dict(model.named_parameters(prefix="x"))
    assert not [name for name in names if name.startswith("student") or "teacher" in name]


def test_layer_decay_sees_the_students_backbone(distill):
    from mmseg.engine.optimizers import LearningRateDecayOptimizerConstructor

    class ConvNeXt(nn.Module):
        def __init__(self):
            super().__init__()
            self.downsample_layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(4))

    model = distill("segmentation")
    model.student.backbone = ConvNeXt()
    options = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=1.0, weight_decay=0.1))
    decay = dict(decay_rate=0.5, decay_type="layer_wise", num_layers=6)
    groups = LearningRateDecayOptimizerConstructor(options, decay)(model).param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert rates[id(model.student.backbone.downsample_layers[0].weight)] == 0.5**7
    assert rates[id(model.student.backbone.downsample_layers[3].weight)] == 0.5
    assert rates[id(model.student.decode_head.conv_seg.weight)] == 1.0


def test_what_it_has_not_itself_it_asks_the_student_for(distill):
    model = distill("detection")
    assert model.bbox_head is model.student.bbox_head
    assert model.with_neck is True
    model.bbox_head.use_l1 = True
    assert model.student.bbox_head.use_l1 is True
    assert not hasattr(model, "roi_head")
    with pytest.raises(AttributeError, match="nowhere"):
        model.nowhere


@pytest.mark.parametrize("task", TASKS)
def test_outside_the_loss_it_answers_as_the_student_without_a_teacher(distill, small, task):
    model = distill(task).eval()
    data = model.data_preprocessor(small.raw(task), False)
    ours, plain = model(data["inputs"]), model.student(data["inputs"])
    flat = [
        torch.cat([x.flatten() for level in out for x in (level if isinstance(level, (list, tuple)) else [level])])
        for out in (ours, plain)
    ]
    assert torch.equal(*flat)
    found = model.predict(data["inputs"], data["data_samples"])
    assert found[0].keys() == model.student.predict(data["inputs"], data["data_samples"])[0].keys()
    assert not model.teacher.is_built


@pytest.mark.parametrize("task", TASKS)
def test_its_loss_is_the_students_plus_the_terms(distill, small, task):
    model = distill(task).eval()
    if task == "segmentation":
        model.student.decode_head.dropout = model.student.auxiliary_head.dropout = None
    losses, alone = loss_of(model, small.raw(task)), loss_of(model.student, small.raw(task))
    assert set(losses) == {*alone, "distill.loss_freekd"}
    assert float(model.parse_losses(alone)[0]) == pytest.approx(float(model.student.parse_losses(alone)[0]))
    total = float(model.parse_losses(losses)[0])
    term = float(losses["distill.loss_freekd"])
    assert term > 0
    assert total == pytest.approx(float(model.parse_losses(alone)[0]) + term, rel=1e-5)


@pytest.mark.parametrize("weight", [1.0, dict(ratio=0.5, iters=1)], ids=["fixed", "share"])
@pytest.mark.parametrize("task", TASKS)
def test_every_trained_parameter_gets_a_gradient_and_the_teacher_none(distill, small, freekd_term, task, weight):
    levels = 5 if task == "detection" else 4
    mse = copy.deepcopy(MSE)
    mse["align"]["num_levels"] = levels
    model = distill(task, terms=dict(loss_freekd=freekd_term(task, weight=weight), loss_mse=mse)).train()
    model.parse_losses(loss_of(model, small.raw(task)))[0].backward()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert "distiller.loss_freekd.align.layers.0.weight" in trained
    assert [name for name, parameter in trained.items() if parameter.grad is None] == []
    assert not [name for name in trained if ".prompts." in name]
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.teacher.model.parameters())


def test_a_ratio_weight_gives_the_term_that_ratio_of_the_gradient_at_the_tap(distill, small, freekd_term):
    model = distill(
        "detection", terms=dict(loss_freekd=freekd_term("detection", weight=dict(ratio=0.25, iters=1)))
    ).train()
    maps = []
    model.student.neck.register_forward_hook(lambda module, inputs, output: maps.extend(output))
    losses = loss_of(model, small.raw("detection"))
    term = losses.pop("distill.loss_freekd")
    norms = []
    for loss in (model.parse_losses(losses)[0], term):
        gradients = torch.autograd.grad(loss, maps, retain_graph=True)
        norms.append(torch.cat([gradient.flatten() for gradient in gradients]).norm())
    assert float(norms[1] / norms[0]) == pytest.approx(0.25, rel=1e-4)


def test_the_monitor_logs_ratio_cosine_weight_and_norms(distill, small, freekd_term):
    hub = MessageHub.get_instance("monitored")
    model = distill(
        "detection", terms=dict(loss_freekd=freekd_term("detection", weight=dict(ratio=0.5, iters=9))), monitor=2
    )
    for _ in range(3):
        loss_of(model.train(), small.raw("detection"))
    ratios = hub.get_scalar("train/ratio/loss_freekd").data[0]
    assert len(ratios) == 2
    assert ratios[0] == pytest.approx(0.5, rel=1e-4)
    assert hub.get_scalar("train/grad_norm/task").current() > 0
    assert hub.get_scalar("train/weight/loss_freekd").current() > 0
    assert 0 < abs(hub.get_scalar("train/cosine/loss_freekd").current()) < 1


def test_a_schedule_scales_the_term_and_keeps_its_parameters_in_the_graph(distill, small, freekd_term):
    hub = MessageHub.get_instance("scheduled")
    hub.update_info_dict(dict(epoch=0, max_epochs=4))
    model = distill(
        "detection", terms=dict(loss_freekd=freekd_term("detection", schedule=dict(warmup=2, end=3)))
    ).train()
    values = []
    for epoch in range(4):
        hub.update_info("epoch", epoch)
        model.zero_grad()
        loss = loss_of(model, small.raw("detection"))["distill.loss_freekd"]
        loss.backward()
        values.append(float(loss))
    assert values[3] == 0.0
    assert values[0] > 0
    assert values[1] / values[0] == pytest.approx(2.0, rel=0.2)  # batch statistics move a little
    align = model.terms["loss_freekd"].align.layers[0].weight
    assert align.grad is not None
    assert float(align.grad.abs().sum()) == 0.0


def test_a_task_schedule_silences_the_students_own_losses(distill, small):
    MessageHub.get_instance("phases").update_info_dict(dict(epoch=0, max_epochs=4))
    losses = loss_of(distill("detection", task_schedule=dict(begin=1)).train(), small.raw("detection"))
    assert float(sum(sum(value) for key, value in losses.items() if key != "distill.loss_freekd")) == 0.0
    assert float(losses["distill.loss_freekd"]) > 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(student_tap="nekc"), "no module 'nekc' in RetinaNet; the nearest names are 'neck'"),
        (dict(align=None), "terms.loss_freekd: student and teacher features of level 0 must have the same shape"),
        (dict(align=None), r"got \(1, 8, .*\(1, 16, .*ConvAlign\(student_channels=8, teacher_channels=16\)"),
        (dict(teacher_tap="neck.lateral_convs.9"), "no module 'neck.lateral_convs.9' in RetinaNet"),
        (
            dict(student_levels=(0, 7)),
            r"terms.loss_freekd: student_levels must be below 5, the number of maps of student 'neck'",
        ),
        (dict(student_tap="bbox_head.loss_cls"), "'bbox_head.loss_cls' did not run"),
    ],
)
def test_what_does_not_fit_is_named_before_training(distill, freekd_term, changes, words):
    with pytest.raises(ValueError, match=words):
        distill("detection", terms=dict(loss_freekd=freekd_term("detection", **changes))).rehearse()


@pytest.mark.parametrize("terms", [{}, dict(mimic={})])
def test_terms_must_exist_and_be_named_loss(distill, terms):
    with pytest.raises(ValueError, match=r"at least one term|'loss_mimic'"):
        distill("detection", terms=terms)


def test_a_rehearsal_leaves_no_trace(distill, recwarn):
    model = distill("detection").train()
    model.init_weights()
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    model.rehearse(size=(32, 32))
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())
    assert torch.equal(torch.get_rng_state(), random)
    assert model.student.backbone.bn1.training
    assert not [warning for warning in recwarn if "too small" in str(warning.message)]


def test_it_inherits_modules_of_the_teacher_after_its_own_initialisation(distill, small):
    student = small.config("detection", 8)
    model = distill(
        "detection",
        terms=dict(loss_mse=dict(loss=dict(type="freqkd.MSELoss"))),
        student=student,
        inherit=("bbox_head",),
    )
    model.init_weights()
    taught = model.teacher.model
    for key, value in taught.bbox_head.state_dict().items():
        assert torch.equal(model.student.bbox_head.state_dict()[key], value)
    assert not torch.equal(model.student.neck.fpn_convs[0].conv.weight, taught.neck.fpn_convs[0].conv.weight)


def test_it_cannot_inherit_what_has_another_shape(distill):
    model = distill("detection", inherit=("neck",))
    with pytest.raises(ValueError, match=r"inherit: 'neck' must have equal shapes"):
        model.init_weights()
