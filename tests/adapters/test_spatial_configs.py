"""The sample configs of the spatial baselines: what they train, and nothing of it in the student."""

from pathlib import Path

import pytest
import torch

import freqkd.plugins  # noqa: F401
from freqkd.losses import ATLoss, FGDLoss, MGDLoss
from freqkd.models import DistillTerm
from freqkd.utils.compat import read_config

FOLDER = Path(__file__).resolve().parents[2] / "configs"
PAIR = "neck_retinanet-r18w48_retinanet-r18w16_b8-12e_blood-cells.py"
LOSSES = {"at": ATLoss, "mgd": MGDLoss, "fgd": FGDLoss}


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_the_term_of_a_config(name):
    model = read_config(FOLDER / name / f"{name}_{PAIR}").model
    assert list(model.terms) == ["loss_feature"]
    options = {key: value for key, value in model.terms.loss_feature.items() if key != "type"}
    assert options["weight"]["ratio"] > 0
    term = DistillTerm(**options)
    assert type(term.loss) is LOSSES[name]
    assert (term.adapter is None) == (name != "fgd")
    torch.manual_seed(0)
    sizes = [(9, 12), (5, 6), (3, 3)]
    student = [torch.randn(2, 32, *size, requires_grad=True) for size in sizes]
    teacher = [torch.randn(2, 64, *size) for size in sizes]
    boxes = torch.tensor([[8.0, 8.0, 40.0, 30.0]])
    instances = type("Instances", (), dict(bboxes=boxes))
    samples = [type("Sample", (), dict(gt_instances=instances))] * 2
    batch = type("Batch", (), dict(data_samples=samples, inputs=torch.zeros(2, 3, 72, 96)))
    term(student, teacher, batch).backward()
    assert all(feature.grad.norm() > 0 for feature in student)
    assert all(value.grad is not None for value in term.parameters())
