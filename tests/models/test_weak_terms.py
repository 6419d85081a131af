"""A term that pulls with under 5 % of its ratio, or against the task, is told once; one that is meant to pull less is not."""

import copy

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.registry import MODELS

from freqkd.losses import MSELoss
from freqkd.models import Distiller, DistillTerm
from freqkd.models.opposing_terms import OpposingTerms
from freqkd.models.weak_terms import WeakTerms
from freqkd.models.weight import FixedWeight, HeldRatioWeight, RatioWeight


@pytest.fixture
def weight():
    """A ratio weight that is measured to its end."""
    made = RatioWeight(ratio=0.5, iters=1)
    made.measured.count = made.measured.task_sum = made.measured.term_sum = 1
    return made


@pytest.mark.parametrize(("ratio", "factor", "told"), [(0.02, 1.0, True), (0.03, 1.0, False), (0.02, 0.5, False)])
def test_a_weak_term_is_told_once(weight, ratio, factor, told):
    weak = WeakTerms()
    said = [weak.notice("loss_logit", weight, ratio, factor) for _ in range(12)]
    assert sum(map(bool, said)) == told
    if told:
        assert said[4].startswith("terms.loss_logit pulls with 4 % of the ratio asked for, 0.5, in the last 5 measured")


def test_a_step_that_is_not_finite_is_not_counted(weight):
    weak, ratios = WeakTerms(), (float("nan"), 0.01, float("inf"), 0.01, 0.01, 0.01, 0.01)
    assert [bool(weak.notice("loss_logit", weight, ratio, 1.0)) for ratio in ratios] == [False] * 6 + [True]


def test_one_weak_batch_is_nothing(weight):
    weak = WeakTerms()
    assert not any(weak.notice("loss_logit", weight, ratio, 1.0) for ratio in (0.5, 0.0, 0.5, 0.5, 0.5, 0.5, 0.0))


def test_numbers_and_ratios_that_are_still_measured_are_not_compared():
    weak = WeakTerms()
    assert not any(weak.notice("loss_logit", FixedWeight(1.0), 0.0, 1.0) for _ in range(9))
    assert not any(weak.notice("loss_logit", RatioWeight(0.5), 0.0, 1.0) for _ in range(9))


def test_a_held_ratio_is_told_only_where_its_term_has_no_gradient(weight):
    held, weak = HeldRatioWeight(ratio=0.5, iters=1), WeakTerms()
    held.measured.count = held.measured.task_sum = held.measured.term_sum = 1
    assert not any(weak.notice("loss_logit", held, 0.0, 1.0) for _ in range(9))
    held.measured.term_sum = 0
    assert "pulls with 0 % of the ratio asked for" in weak.notice("loss_logit", held, 0.0, 1.0)


def test_a_term_that_pulls_against_the_task_is_told_once():
    opposing, cosines = OpposingTerms(), [0.5, *[-0.2] * 6, float("nan"), -0.4, -0.4, -0.3, -0.4, -0.3]
    said = [opposing.notice("loss_logit", cosine, 0.5) for cosine in cosines]
    # The tenth that is finite; the mean is -0.18 then.
    assert [bool(one) for one in said] == [False] * 10 + [True, False, False]
    assert "the cosine between their gradients at the tap is -0.18 in the mean of the last 10" in said[10]
    assert "takes away 9 % of the task's gradient" in said[10]


@pytest.mark.parametrize(("cosine", "ratio"), [(-0.05, 1.0), (0.4, 1.0), (-0.9, 0.0)])
def test_a_term_that_does_not_is_not_told(cosine, ratio):
    opposing = OpposingTerms()
    assert not any(opposing.notice("loss_logit", cosine, ratio) for _ in range(20))


def test_a_term_without_a_gradient_is_told_when_its_weight_is_measured(distill, freekd_term, small, monkeypatch):
    said = []
    monkeypatch.setattr("freqkd.models.distiller.print_log", lambda text, *_: said.append(text))
    loss = dict(type="freqkd.MSELoss", loss_weight=0.0)
    terms = dict(loss_mse=freekd_term("detection", loss=loss, prompts=None, weight=dict(ratio=0.5, iters=2)))
    model = distill("detection", terms=terms).train()
    for _ in range(3):
        data = model.data_preprocessor(copy.deepcopy(small.raw("detection")), True)
        model(data["inputs"], data["data_samples"], mode="loss")
    (line,) = [one for one in said if "pulls" in one]
    assert line.startswith(
        "terms.loss_mse pulls with 0 % of the ratio asked for, 0.5: its gradient at the tap was 0 in all 2"
    )


@MODELS.register_module(force=True)
class Growing(BaseModel):
    """A layer whose task is to make its maps large."""

    def __init__(self):
        super().__init__(dict(type="ImgDataPreprocessor"))
        self.backbone = torch.nn.Conv2d(3, 2, 1)

    def forward(self, inputs, data_samples=None, mode="tensor"):
        return dict(loss_task=-self.backbone(inputs).square().mean())


def test_the_log_has_the_cosine_and_says_that_a_term_pulls_against_the_task(monkeypatch, tmp_path):
    said = []
    monkeypatch.setattr("freqkd.models.distiller.print_log", lambda text, *_: said.append(text))
    student, teacher = Growing(), Growing()
    state = {name: torch.zeros_like(value) for name, value in teacher.state_dict().items()}  # its maps are 0
    torch.save(dict(state_dict=state), tmp_path / "teacher.pth")
    held = dict(config=dict(model=dict(type="mmengine.Growing")), checkpoint=str(tmp_path / "teacher.pth"))
    hub = MessageHub.get_instance("opposed")
    model = Distiller(student, held, dict(loss_mse=DistillTerm(MSELoss(), "backbone", weight=0.25)), monitor=2).train()
    for _ in range(22):
        model(torch.randn(1, 3, 4, 4), mode="loss")
    assert hub.get_scalar("train/cosine/loss_mse").data[0] == pytest.approx([-1.0] * 11)
    assert [one for one in said if "against the task" in one] == [
        "terms.loss_mse pulls against the task: the cosine between their gradients at the tap is -1.00 in the mean of the last "
        "10 measured iterations, which takes away 25 % of the task's gradient; where the student ends no better than alone, "
        "give the term a smaller weight, or let it end earlier (schedule)"
    ]
