"""The guide's code runs as it stands, and does what the guide says."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

GUIDE = Path(__file__).resolve().parent.parent / "CONTRIBUTING.md"


@pytest.fixture(scope="module")
def guide():
    from freqkd.registry import MODELS

    names = {}
    for block in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.S):
        exec(compile(block, str(GUIDE), "exec"), names)
    yield names
    MODELS.module_dict.pop("CosineLoss", None)


def test_the_guides_loss_trains_as_a_term_of_a_config(guide):
    from freqkd.distillers import DistillTerm

    options = {key: value for key, value in guide["term"].items() if key != "type"}
    term = DistillTerm(**options)
    torch.manual_seed(0)
    student = [torch.randn(2, 8, 5, 7, requires_grad=True), torch.randn(2, 8, 3, 4, requires_grad=True)]
    teacher = [torch.randn(2, 16, 5, 7), torch.randn(2, 16, 3, 4)]
    loss = term(student, teacher)
    loss.backward()
    assert 1.5 < loss.item() < 2.5  # two levels of unrelated vectors: each near 1
    assert all(feature.grad.abs().sum() > 0 for feature in student)
    same = nn.Module.__call__(guide["CosineLoss"](), teacher, teacher)
    assert abs(same.item()) < 1e-6


def test_the_guides_softening_is_one_class_and_changes_what_it_says(guide):
    from freqkd.losses import kd_loss

    student, teacher = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[2.0, 0.0, 0.0]])
    expected = kd_loss(student, 2 * teacher, tau=2.0)
    torch.testing.assert_close(guide["sharp"](student, teacher), expected)
    assert not torch.isclose(expected, kd_loss(student, teacher, tau=2.0))


def test_the_guide_has_four_steps_and_names_files_that_exist():
    text = GUIDE.read_text()
    assert [line[2:4] for line in text.splitlines() if re.match(r"\*\*\d\.", line)] == ["1.", "2.", "3.", "4."]
    for name in ("freqkd/plugins.py", "freqkd/losses/__init__.py", "freqkd/losses/softening.py", "docs/methods.md"):
        assert name in text
        assert (GUIDE.parent / name).exists()
