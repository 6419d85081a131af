"""Stages that are frozen at random weights are named before a training; those that get weights are not."""

import pytest
from mmengine.config import Config

from freqkd.apis.preflight import warn_of_frozen_parts

FROZEN = dict(type="ResNet", frozen_stages=1, init_cfg=None)
PRETRAINED = dict(type="Pretrained", checkpoint="net.pth")


@pytest.mark.parametrize(
    ("model", "slot"),
    [
        (dict(backbone=FROZEN), "model.backbone"),
        (dict(student=dict(backbone=FROZEN)), "model.student.backbone"),
        (dict(backbone=dict(FROZEN, init_cfg=[dict(type="Kaiming")])), "model.backbone"),
        (dict(student=dict(backbone=FROZEN), inherit=["neck"]), "model.student.backbone"),
        (dict(student=dict(backbone=FROZEN), inherit=["backbone"]), ""),
        (dict(backbone=dict(FROZEN, frozen_stages=-1)), ""),
        (dict(backbone=dict(FROZEN, init_cfg=PRETRAINED)), ""),
        (dict(backbone=dict(FROZEN, init_cfg=[PRETRAINED])), ""),
        (dict(backbone=dict(FROZEN, pretrained=True)), ""),
        (dict(backbone=FROZEN, init_cfg=PRETRAINED), ""),
        (dict(teacher=dict(network=dict(backbone=FROZEN))), ""),
    ],
)
def test_frozen_random_stages_are_named(model, slot, capsys):
    warn_of_frozen_parts(Config(dict(model=model)))
    text = capsys.readouterr().err
    assert text.startswith(f"warning: {slot}.frozen_stages freezes stages at random weights") if slot else not text
    warn_of_frozen_parts(Config(dict(model=model, load_from="net.pth")))
    assert not capsys.readouterr().err
