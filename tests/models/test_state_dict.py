"""Whoever collects or loads a state dict meets the student's own keys."""

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.runner.checkpoint import get_state_dict, load_state_dict
from torch import nn

TASKS = ("detection", "segmentation")


class Wrapped(nn.Module):
    """Puts a network under `module.`, as DDP does."""

    def __init__(self, module):
        super().__init__()
        self.module = module


@pytest.mark.parametrize("task", TASKS)
def test_its_state_dict_has_the_students_keys_first_and_the_rest_under_distiller(distill, small, task):
    model, plain = distill(task), small.build(small.config(task, 4), task)
    expected = list(plain.state_dict())
    for state in (model.state_dict(), get_state_dict(model)):
        assert list(state)[: len(expected)] == expected
        rest = list(state)[len(expected) :]
        assert rest
        assert all(key.startswith("distiller.loss_freekd.") for key in rest)
        own = set(plain.state_dict()._metadata) - {""}
        assert own <= set(state._metadata)
        assert not [key for key in state._metadata if key.startswith("student")]


@pytest.mark.parametrize("wrap", [lambda model: model, Wrapped], ids=["bare", "wrapped"])
@pytest.mark.parametrize("way", ["torch", "mmengine"])
def test_its_state_dict_goes_out_and_in(distill, wrap, way):
    source, target = wrap(distill("detection")), wrap(distill("detection"))
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(1)
    state = source.state_dict() if way == "torch" else get_state_dict(source)
    before = list(state)
    if way == "torch":
        target.load_state_dict(state)
    else:
        load_state_dict(target, state, strict=True)
    assert list(state) == before
    again = target.state_dict()
    assert list(again) == before
    assert all(torch.equal(again[key], state[key]) for key in before)


def test_a_plain_students_checkpoint_starts_it(distill, small):
    model, plain = distill("segmentation"), small.build(small.config("segmentation", 4), "segmentation")
    extra = {key: value.clone() for key, value in model.state_dict().items() if key.startswith("distiller.")}
    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert unexpected == []
    assert set(missing) == set(extra)
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in {**plain.state_dict(), **extra}.items())


def test_the_plain_student_takes_its_checkpoint(distill, small):
    model, plain = distill("detection"), small.build(small.config("detection", 4), "detection")
    missing, unexpected = plain.load_state_dict(model.state_dict(), strict=False)
    assert missing == []
    assert all(key.startswith("distiller.") for key in unexpected)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in plain.state_dict().items())


@pytest.mark.parametrize("update_buffers", [False, True])
def test_an_average_of_it_has_its_keys_and_averages(distill, update_buffers):
    model = distill("detection")
    average = ExponentialMovingAverage(model, momentum=0.25, update_buffers=update_buffers)
    average.update_parameters(model)
    start = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    average.update_parameters(model)
    state = average.module.state_dict()
    assert list(state) == list(start)
    for name in ("backbone.conv1.weight", "distiller.loss_freekd.align.layers.0.bias"):
        torch.testing.assert_close(state[name], start[name] + 0.25)
    assert average.module.teacher is model.teacher
    other = ExponentialMovingAverage(distill("detection"), update_buffers=update_buffers)
    other.load_state_dict(average.state_dict())
    assert torch.equal(other.module.state_dict()["backbone.conv1.weight"], state["backbone.conv1.weight"])


@pytest.mark.parametrize(
    "load", [lambda model, state: model.load_state_dict(state), load_state_dict], ids=["torch", "mmengine"]
)
def test_versions_of_the_students_modules_survive(distill, load):
    source, target = distill("detection"), distill("detection")
    source.student._version, source.student.neck._version = 7, 3
    state, met = source.state_dict(), {}
    assert state._metadata[""]["version"] == 7
    for name, module in (("student", target.student), ("neck", target.student.neck)):

        def note(state, prefix, metadata, *args, name=name):
            met[name] = metadata["version"]

        module._load_from_state_dict = note
    load(target, state)
    assert met == dict(student=7, neck=3)
