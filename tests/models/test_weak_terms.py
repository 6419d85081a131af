"""A term that pulls with under 5 % of its ratio is told once; one that is meant to pull less is not."""

import copy

import pytest

from freqkd.models.weak_terms import WeakTerms
from freqkd.models.weight import FixedWeight, RatioWeight


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
