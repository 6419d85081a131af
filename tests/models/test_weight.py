"""How much a term counts: numbers, and ratios to the task's gradient."""

import math

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS

from freqkd.losses import MSELoss
from freqkd.models import Distiller, DistillTerm
from freqkd.models.gradients import gradient_norm, tap_gradient
from freqkd.models.weight import FixedWeight, HeldRatioWeight, RatioWeight, build_weight


def maps(*shapes, dtype=torch.float32):
    torch.manual_seed(0)
    return [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]


def test_the_norm_takes_all_maps_as_one_vector():
    a, b = maps((2, 3), (4,))
    loss = 3 * a.sum() + 4 * b.sum()
    assert float(gradient_norm(loss, [a, b])) == pytest.approx(math.sqrt(9 * 6 + 16 * 4))


def test_a_map_that_the_loss_does_not_reach_counts_as_zero():
    a, b = maps((4,), (4,))
    assert float(gradient_norm(2 * a.sum(), [a, b])) == pytest.approx(4.0)
    assert float(gradient_norm(2 * a.sum(), [b])) == 0.0


def test_it_leaves_the_graph_and_the_gradients_alone():
    (a,) = maps((4,))
    loss = a.square().sum()
    gradient_norm(loss, [a])
    assert a.grad is None
    loss.backward()
    assert torch.equal(a.grad, 2 * a)


def test_a_loss_without_a_graph_has_no_gradient():
    assert float(gradient_norm(torch.tensor(3.0), maps((2,)))) == 0.0


def test_small_gradients_in_half_precision_do_not_underflow():
    (a,) = maps((1000,), dtype=torch.float16)
    loss = (a.float() * 1e-9).sum()
    assert float(torch.autograd.grad(loss, a, retain_graph=True)[0].abs().max()) == 0.0
    assert float(gradient_norm(loss, [a])) == pytest.approx(1e-9 * math.sqrt(1000), rel=0.01)


def test_large_gradients_in_half_precision_do_not_overflow():
    (a,) = maps((4,), dtype=torch.float16)
    assert float(gradient_norm((a.float() * 1000).sum(), [a])) == pytest.approx(2000.0)
    # Beyond the range of float16 at any scale from 1 on.
    loss = (a.float() * 1e7).sum()
    assert float(torch.autograd.grad(loss, a, retain_graph=True)[0].abs().max()) == math.inf
    assert float(gradient_norm(loss, [a])) == pytest.approx(2e7, rel=1e-3)


def test_features_without_a_gradient_are_refused():
    words = (
        "a ratio weight and monitor= need tapped student features .* or give the weight as a number and set monitor=0$"
    )
    with pytest.raises(ValueError, match=words):
        gradient_norm(torch.tensor(1.0, requires_grad=True), [torch.zeros(2)])


def test_the_cosine_takes_all_maps_as_one_vector_and_skips_those_that_a_loss_does_not_reach():
    a, b = maps((2, 3), (4,))
    first, second = tap_gradient(3 * a.sum() + 4 * b.sum(), [a, b]), tap_gradient(-2 * b[0] + 0 * b[1], [a, b])
    assert float(first.cosine(second)) == pytest.approx(-4 * 2 / (math.sqrt(9 * 6 + 16 * 4) * 2))
    assert float(first.cosine(first)) == pytest.approx(1.0)
    assert float(first.cosine(tap_gradient(a.sum() * 0, [a, b]))) == 0.0
    assert float(first.cosine(tap_gradient(torch.tensor(1.0), [a, b]))) == 0.0


def test_the_cosine_in_half_precision_does_not_depend_on_the_size_of_the_gradients():
    (a,) = maps((1000,), dtype=torch.float16)
    small, large = (
        tap_gradient((a.float()[:count] * factor).sum(), [a]) for count, factor in ((1000, 1e-9), (250, 1e7))
    )
    assert small.scale != large.scale
    assert float(small.cosine(large)) == pytest.approx(0.5, rel=1e-2)


@MODELS.register_module(force=True)
class TwoLayers(BaseModel):
    def __init__(self):
        super().__init__(dict(type="ImgDataPreprocessor"))
        self.backbone, self.head = torch.nn.Conv2d(3, 2, 1), torch.nn.Conv2d(2, 1, 1)

    def forward(self, inputs, data_samples=None, mode="tensor"):
        return dict(loss_task=self.head(self.backbone(inputs)).mean())


@pytest.mark.parametrize(("weight", "monitor"), [(2.0, 1), (dict(ratio=0.5), 0), (2.0, 0)])
def test_a_term_at_a_frozen_tap_is_refused_with_its_name(weight, monitor, tmp_path):
    student, teacher = TwoLayers(), TwoLayers()
    torch.save(dict(state_dict=teacher.state_dict()), tmp_path / "teacher.pth")
    held = dict(config=dict(model=dict(type="mmengine.TwoLayers")), checkpoint=str(tmp_path / "teacher.pth"))
    term = DistillTerm(MSELoss(), "backbone", weight=weight)
    model = Distiller(student, held, dict(loss_mse=term), monitor=monitor).train()
    student.backbone.requires_grad_(False)
    words = r"^terms.loss_mse: no gradient reaches the student from its tap 'backbone', .* are frozen \(frozen_stages"
    with pytest.raises(ValueError, match=words):
        model(torch.randn(1, 3, 4, 4), mode="loss")


def test_a_weight_is_a_ratio_of_running_means_and_freezes():
    weight = RatioWeight(ratio=0.5, iters=3)
    for task, term, expected in [(4.0, 100.0, 0.02), (8.0, 20.0, 0.05), (0.0, 120.0, 0.025), (1e6, 1.0, 0.025)]:
        weight.update(torch.tensor(task), torch.tensor(term))
        assert float(weight.value()) == pytest.approx(expected)
    assert not weight.wants_gradients


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_an_overflow_is_not_measured(bad):
    weight = RatioWeight(ratio=1.0, iters=1)
    weight.update(torch.tensor(bad), torch.tensor(1.0))
    weight.update(torch.tensor(1.0), torch.tensor(bad))
    assert weight.wants_gradients
    assert float(weight.value()) == 0.0
    weight.update(torch.tensor(3.0), torch.tensor(1.0))
    assert float(weight.value()) == 3.0


def test_what_was_measured_is_saved_and_restored():
    weight, other = RatioWeight(ratio=0.5, iters=2), RatioWeight(ratio=0.5, iters=2)
    weight.update(torch.tensor(4.0), torch.tensor(8.0))
    other.load_state_dict(weight.state_dict())
    assert float(other.value()) == 0.25
    other.update(torch.tensor(0.0), torch.tensor(8.0))
    assert float(other.value()) == 0.125
    assert not other.wants_gradients


def pull(weight, task, term):
    """Go through an iteration; whether its gradients were asked for."""
    wanted = weight.wants_gradients
    if wanted:
        weight.update(torch.tensor(task), torch.tensor(term))
    weight.end_iteration()
    return wanted


def test_a_held_weight_is_brought_to_the_nearest_bound_after_every_interval():
    weight = HeldRatioWeight(ratio=0.5, iters=2, band=16.0, interval=2)  # corrected to a ratio within 0.25 and 1
    values = []
    for term in (10.0, 10.0, 10.0, 10.0, 1.0, 1.0, 1.0, 1.0, 1e4, 1e4, 30.0, 30.0):
        assert pull(weight, 4.0, term)
        values.append(weight.value())
    # 0.5 * 4 / 10 holds a ratio of 0.5; then it is 0.05 (to 0.25), 0.25 (left), 2500 (a tenth, the most), 0.75 (left)
    assert values == pytest.approx([0.2] * 4 + [0.2, 1.0, 1.0, 1.0, 1.0, 0.1, 0.1, 0.1])


def test_a_held_weight_measures_about_five_iterations_of_an_interval_and_no_others():
    weight = HeldRatioWeight(ratio=1.0, iters=3, interval=20)
    asked = [pull(weight, 1.0, 1.0) for _ in range(3 + 20 + 20)]
    assert [step for step, one in enumerate(asked) if one] == [0, 1, 2, *(3 + step for step in range(0, 40, 4))]
    weight.end_iteration()  # the first of an interval; the gradients of the second are not wanted
    assert not weight.wants_gradients
    weight.update(torch.tensor(1.0), torch.tensor(1e9))  # as `monitor` does
    assert weight.measured.recent_term == 0.0


def test_a_held_weight_does_not_count_an_overflow_and_measures_a_late_gradient():
    weight = HeldRatioWeight(ratio=0.5, iters=1, band=2.0, interval=1)
    for task, term, value in [
        (4.0, 0.0, 0.0),
        (4.0, math.inf, 0.0),
        (4.0, 8.0, 0.25),
        (4.0, 0.0, 0.25),
        (4.0, 8.0, 0.25),
    ]:
        pull(weight, task, term)
        assert weight.value() == value


def test_a_held_weight_is_saved_and_restored_within_an_interval():
    first, second = (HeldRatioWeight(ratio=0.5, iters=1, band=1.1, interval=3) for _ in range(2))
    for term in (8.0, 8.0, 3.0, 7.0, 5.0):
        pull(first, 4.0, term)
    state = first.state_dict()
    assert set(state) == {"task_sum", "term_sum", "count", "correction", "done", "recent_task", "recent_term"}
    second.load_state_dict(state)
    assert second.measured == first.measured
    assert first.measured.done == 1
    for term in (0.1, 6.0, 2.0):
        pull(first, 4.0, term)
        pull(second, 4.0, term)
    assert second.value() == first.value() != 0.25
    assert first.measured.correction not in (1.0, float(state["correction"]))
    with pytest.raises(RuntimeError, match="correction"):
        second.load_state_dict(RatioWeight(ratio=0.5).state_dict())


def test_a_dropped_step_takes_back_what_a_held_weight_has_measured():
    weight = build_weight(dict(ratio=0.5, hold=True, iters=1, interval=4))
    pull(weight, 4.0, 8.0)
    before = weight.measured.clone()
    pull(weight, 4.0, 1.0)
    assert weight.measured != before
    weight.measured.copy_(before)
    assert weight.measured == before


def test_a_number_is_a_number():
    weight = build_weight(3)
    assert isinstance(weight, FixedWeight)
    weight.update(torch.tensor(4.0), torch.tensor(8.0))
    assert weight.value() == 3.0
    assert weight.state_dict() == {}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (-1.0, "weight must be at least 0, got -1.0"),
        (True, "weight must be a number"),
        ("much", "weight must be a number or dict"),
        (dict(iters=5), "weight must be a number or dict"),
        (dict(ratio=0.0), "weight.ratio must be above 0"),
        (dict(ratio=0.5, iters=0), "weight.iters must be at least 1"),
        (dict(ratio=0.5, hold=1), "weight.hold must be True or False, got 1"),
        (dict(ratio=0.5, band=2.0), "weight.band must be left out without hold=True, got 2.0"),
        (dict(ratio=0.5, hold=False, interval=5), "weight.interval must be left out without hold=True, got 5"),
        (dict(ratio=0.5, hold=True, band=1.0), "weight.band must be above 1, got 1.0"),
        (dict(ratio=0.5, hold=True, interval=0), "weight.interval must be at least 1, got 0"),
        (dict(ratio=0.5, keep=True), "with hold=True, band= and interval= where the ratio is held, got"),
    ],
)
def test_other_weights_are_refused(value, words):
    with pytest.raises(ValueError, match=words):
        build_weight(value)
