"""A term whose gradient does not reach the student is refused in the first iteration, whatever its weight is."""

import copy

import pytest
import torch
from torch import nn

from freqkd.models.gradient_path import check_gradient

ALIGN = dict(type="freqkd.ConvAlign", student_channels=16, teacher_channels=32)


def term(tap, weight=1.0, **changes):
    return dict(loss_mse=dict(dict(loss=dict(type="freqkd.MSELoss"), student_tap=tap, weight=weight), **changes))


def losses_of(model, raw):
    data = model.data_preprocessor(copy.deepcopy(raw), True)
    return model(data["inputs"], data["data_samples"], mode="loss")


def test_a_frozen_tap_where_only_the_align_trains(distill, small):
    model = distill("detection", terms=term("backbone.layer3", align=ALIGN)).train()
    model.student.backbone.requires_grad_(False)
    words = (
        r"^terms.loss_mse: no gradient .* 'backbone.layer3', .* are frozen \(frozen_stages, .*train those parameters$"
    )
    with pytest.raises(ValueError, match=words):
        losses_of(model, small.raw("detection"))


def test_levels_that_are_frozen_are_told_once(distill, small, monkeypatch):
    said = []
    monkeypatch.setattr("freqkd.models.distiller.print_log", lambda text, *_: said.append(text))
    align = dict(type="freqkd.ConvAlign", student_channels=[4, 16], teacher_channels=[8, 32], num_levels=2)
    model = distill("detection", terms=term("backbone", align=align, student_levels=(0, 2))).train()
    for part in (model.student.backbone.conv1, model.student.backbone.bn1, model.student.backbone.layer1):
        part.requires_grad_(False)
    for _ in range(2):
        losses_of(model, small.raw("detection"))
    (line,) = [one for one in said if "no gradient" in one]
    assert "from level 0 of 'backbone'" in line


def test_what_detaches_the_maps_is_said():
    student = nn.Sequential(nn.Conv2d(1, 1, 1))
    maps, align = student(torch.zeros(1, 1, 2, 2)), nn.Conv2d(1, 1, 1)
    with pytest.raises(ValueError, match="the adapter or the loss detaches the student's maps"):
        check_gradient(align(maps.detach()).sum(), student, "0", {"0": [maps]})


def test_a_loss_without_a_graph_is_looked_at_again():
    student = nn.Sequential(nn.Conv2d(1, 1, 1))
    maps = student(torch.zeros(1, 1, 2, 2))
    assert not check_gradient(torch.zeros(()), student, "0", {"0": [maps]})
    assert check_gradient(maps.sum() * 0, student, "0", {"0": [maps]})


def test_without_a_graph_nothing_is_checked(distill, small):
    model = distill("detection").train()
    with torch.no_grad():
        losses_of(model, small.raw("detection"))
    model.student.requires_grad_(False)
    with pytest.raises(ValueError, match="no gradient reaches the student"):
        losses_of(model, small.raw("detection"))
