"""Activation checkpointing in the student: maps are tapped once and are the right ones; gradients are those without it."""

import copy

import pytest
import torch
import torch.utils.checkpoint
from mmengine.runner.activation_checkpointing import turn_on_activation_checkpointing

from freqkd.models.recomputation import recomputed_with_graph

RATIO = dict(ratio=0.5, iters=2)
INSIDE = "backbone.layer3.1.conv2"  # in a block that is checkpointed


def align(student, teacher, levels=1):
    return dict(type="freqkd.ConvAlign", student_channels=student, teacher_channels=teacher, num_levels=levels)


@pytest.fixture
def terms(freekd_term):
    """Details, the paper's form, and CWD, on a map behind all blocks, one before some of them, and one inside a block."""
    return dict(
        loss_paper=freekd_term("detection", weight=RATIO),
        loss_details=dict(
            student_tap="backbone.layer2",
            loss=dict(type="freqkd.FreeKDLoss", preset="details", depth=1),
            align=align(8, 16),
            weight=RATIO,
        ),
        loss_cwd=dict(student_tap=INSIDE, loss=dict(type="freqkd.CWDLoss"), align=align(16, 32), weight=RATIO),
    )


def step(model, raw):
    """The losses of a step, the maps that each term took, every gradient, and how often the block ran."""
    maps, runs = {}, []
    model.watch = lambda name, taken: maps.update(
        {name: [one.detach().clone() for each in taken.values() for one in each]}
    )
    handle = model.student.get_submodule(INSIDE).register_forward_hook(lambda *_: runs.append(1))
    data = model.data_preprocessor(copy.deepcopy(raw), True)
    losses = model(data["inputs"], data["data_samples"], mode="loss")
    model.parse_losses(losses)[0].backward()
    handle.remove()
    gradients = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    return {name: value.item() for name, value in losses.items() if "distill" in name}, maps, gradients, len(runs)


@pytest.mark.parametrize("kind", ["with_cp", "activation_checkpointing"])
def test_maps_and_gradients_are_those_without_it(distill, small, terms, kind):
    torch.manual_seed(1)
    plain = distill("detection", terms=terms).train()
    changes = dict(backbone__with_cp=True) if kind == "with_cp" else {}
    model = distill("detection", terms=terms, student=small.config("detection", 4, **changes)).train()
    model.load_state_dict(plain.state_dict())
    for one in (plain, model):
        for prompt in one.terms["loss_paper"].loss.prompts:
            prompt.tokens.copy_(torch.linspace(-1, 1, prompt.tokens.numel()).view_as(prompt.tokens))
    if kind == "activation_checkpointing":  # as the Runner does for the entry of this name; the paths are the student's
        turn_on_activation_checkpointing(model, ["backbone.layer2", "backbone.layer3", "backbone.layer4"])
    losses, maps, gradients, runs = step(plain, small.raw("detection"))
    found, others, again, more = step(model, small.raw("detection"))
    assert runs == 1
    assert more > 1  # it ran again for every gradient that was taken through it
    assert found == pytest.approx(losses, rel=1e-5)
    assert {name: len(taken) for name, taken in maps.items()} == dict(loss_paper=5, loss_details=1, loss_cwd=1)
    for name, taken in maps.items():
        assert all(torch.equal(one, other) for one, other in zip(taken, others[name], strict=True))
    assert len(again) == len(gradients) > 60
    for name, value in gradients.items():
        torch.testing.assert_close(again[name], value, rtol=1e-4, atol=1e-6, msg=name)
    for name, term in model.terms.items():
        assert term.weight.value() > 0
        assert term.weight.value() == pytest.approx(plain.terms[name].weight.value(), rel=1e-4)


def test_a_term_alone_reaches_the_student_from_inside_a_block(distill, small, terms):
    student = small.config("detection", 4, backbone__with_cp=True)
    model = distill("detection", terms=dict(loss_cwd=terms["loss_cwd"]), student=student).train()
    data = model.data_preprocessor(small.raw("detection"), True)
    model(data["inputs"], data["data_samples"], mode="loss")["distill.loss_cwd"].backward()
    backbone = model.student.backbone
    assert float(backbone.layer3[1].conv2.weight.grad.abs().sum()) > 0
    assert float(backbone.conv1.weight.grad.abs().sum()) > 0
    assert backbone.layer4[0].conv1.weight.grad is None


def test_torch_is_left_as_it_was():
    before = torch.utils.checkpoint.checkpoint
    with recomputed_with_graph():
        assert torch.utils.checkpoint.checkpoint is not before
    assert torch.utils.checkpoint.checkpoint is before
