"""Stage 1 trains prompts and nothing else, and says whose they are."""

import copy

import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.runner.checkpoint import get_state_dict

from freqkd.models.prompt_tuner import PromptTuner

LEVELS = dict(detection=5, segmentation=4)
SCOPES = dict(detection="mmdet", segmentation="mmseg")
TASKS = tuple(LEVELS)


@pytest.fixture
def tuner(teachers):
    """Return `tuner(task, teacher=None, **changes)`: a PromptTuner on the neck of the small teacher."""

    def make(task="detection", teacher=None, tap="neck", levels=None, gate=False, **changes):
        prompts = dict(dict(channels=16, num_levels=LEVELS[task], depth=1), **changes)
        with DefaultScope.overwrite_default_scope(SCOPES[task]):
            return PromptTuner(teacher or teachers(task), prompts, tap=tap, levels=levels, gate=gate)

    return make


def losses_of(model, raw):
    data = model.data_preprocessor(copy.deepcopy(raw), True)
    return model(data["inputs"], data["data_samples"], mode="loss")


@pytest.mark.parametrize("gate", [False, True, "kan"])
@pytest.mark.parametrize("task", TASKS)
def test_only_tokens_and_gates_get_gradients(tuner, small, task, gate):
    model = tuner(task, gate=gate)
    model.init_weights()
    total, _ = model.parse_losses(losses_of(model, small.raw(task)))
    total.backward()
    trained = dict(model.named_parameters())
    assert {name.split(".")[0] for name in trained} == ({"prompts", "gates"} if gate else {"prompts"})
    assert [name for name, parameter in trained.items() if parameter.grad is None] == []
    assert all(float(prompt.tokens.grad.abs().sum()) > 0 for prompt in model.prompts)
    assert all(parameter.grad is None for parameter in model.teacher.model.parameters())


@pytest.mark.parametrize("task", TASKS)
def test_a_few_steps_part_the_masks_and_leave_the_teacher_as_it_is(tuner, small, task):
    model = tuner(task)
    raw = small.raw(task)
    data = model.data_preprocessor(copy.deepcopy(raw), False)
    loaded = copy.deepcopy(model.teacher.model.state_dict())
    before = model.measure(data["inputs"], data["data_samples"])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(8):
        optimizer.zero_grad()
        model.parse_losses(losses_of(model.train(), raw))[0].backward()
        optimizer.step()
    after = model.measure(data["inputs"], data["data_samples"])
    assert before["overlap"] > 0.98
    assert after["overlap"] < before["overlap"] - 0.02
    assert after["deviation"] > 3 * before["deviation"]
    assert all(torch.equal(model.teacher.model.state_dict()[key], value) for key, value in loaded.items())


def test_the_loss_is_the_teachers_on_the_rebuilt_maps_plus_the_overlap(tuner, small):
    model = tuner()
    model.overlap_weight = 3.0
    with torch.no_grad():
        for prompt in model.prompts:
            prompt.tokens.copy_(torch.randn_like(prompt.tokens))
    raw = small.raw("detection")
    losses = losses_of(model, raw)
    data = model.data_preprocessor(copy.deepcopy(raw), True)
    network = model.teacher.model
    maps = [
        prompt(feature) for prompt, feature in zip(model.prompts, network.extract_feat(data["inputs"]), strict=True)
    ]
    expected = network.bbox_head.loss(tuple(rebuilt for rebuilt, _ in maps), data["data_samples"])
    torch.testing.assert_close(losses["loss_cls"], expected["loss_cls"])
    torch.testing.assert_close(losses["loss_overlap"], 3.0 * torch.stack([overlap for _, overlap in maps]).mean())


def test_a_gate_scales_the_channels_of_the_rebuilt_map(tuner):
    model = tuner(gate=True, num_levels=1, channels=4)
    feature = torch.randn(1, 4, 6, 6)
    before = model.edit([feature])[0]
    torch.testing.assert_close(before, feature, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        model.gates[0].mlp[-1].bias.fill_(2.0)
    gain = 2 * torch.sigmoid(torch.tensor(2.0))
    torch.testing.assert_close(model.edit([feature])[0], before * gain)


def test_levels_leave_other_maps_alone(tuner):
    model = tuner(num_levels=2, levels=(0, 2))
    with torch.no_grad():
        for prompt in model.prompts:
            prompt.tokens.fill_(5.0)
    maps = [torch.randn(1, 16, 8, 8) for _ in range(3)]
    edited = model.edit(maps)
    assert edited[1] is maps[1]
    assert all((edited[index] - maps[index]).abs().max() > 0.1 for index in (0, 2))


@pytest.mark.parametrize("task", TASKS)
def test_prediction_is_the_masked_teachers(tuner, small, teachers, task):
    model = tuner(task)
    data = model.data_preprocessor(small.raw(task), False)
    if task == "detection":
        model.teacher.model.bbox_head.test_cfg.score_thr = 0.0
        model.teacher.model.bbox_head.retina_cls.weight.data *= 100

    def scores(predict, **options):
        found = predict(data["inputs"], copy.deepcopy(data["data_samples"]), **options)[0]
        return found.seg_logits.data if task == "segmentation" else found.pred_instances.scores

    losses_of(model, small.raw(task))  # which leaves heads in training mode
    fresh_prompts, plain = scores(model.eval(), mode="predict"), scores(model.teacher.model.eval().predict)
    assert len(plain) > 0
    torch.testing.assert_close(fresh_prompts, plain, rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        for prompt in model.prompts:
            prompt.tokens.fill_(-50.0)
    assert (scores(model, mode="predict") - plain).abs().max() > 0.01


def test_a_head_that_answers_otherwise_in_evaluation_predicts_in_evaluation(tuner, small, teachers):
    model = tuner()
    losses_of(model, small.raw("detection"))
    assert model.teacher.model.bbox_head.training
    data = model.data_preprocessor(small.raw("detection"), False)
    model(data["inputs"], data["data_samples"], mode="predict")
    assert not model.teacher.model.bbox_head.training


def test_its_checkpoint_holds_prompts_and_gates(tuner):
    model = tuner(gate=True)
    model.init_weights()
    state = get_state_dict(model)
    assert {key.split(".")[0] for key in state} == {"prompts", "gates"}
    assert sum(value.numel() for value in state.values()) < 10_000


def test_it_starts_without_changing_the_maps_and_its_tokens_cost_nothing_of_the_teacher(tuner):
    maps = [torch.randn(2, 16, size, size) for size in (16, 8, 5, 3, 2)]
    for edited, given in zip(tuner().edit(maps), maps, strict=True):
        torch.testing.assert_close(edited, given, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(tap="nekc"), "no module 'nekc' in RetinaNet; the nearest names are 'neck'"),
        (dict(num_levels=3), r"prompts.num_levels must be 5, the number of maps of 'neck', got 3; .*levels="),
        (dict(levels=(0, 1, 2)), r"prompts.num_levels must be 3, the number of levels=\(0, 1, 2\), got 5"),
        (dict(levels=(0, 9), num_levels=2), r"levels must be below 5, the number of maps of 'neck', got \(0, 9\)"),
        (dict(levels=(0, -1), num_levels=2), r"levels must be indices of tapped maps from 0 on, .* got \(0, -1\)"),
        (dict(channels=8), "prompts.channels must be 16, as many as map 0 of 'neck' has, got 8 channels"),
        (dict(channels=(16, 16, 8, 16, 16)), "prompts.channels must be 16, as many as map 2 of 'neck' has, got 8"),
        (dict(num_promts=3), "prompts takes channels, num_levels, .*, got 'num_promts'; did you mean 'num_prompts'?"),
        (dict(preset="details"), "prompts: preset must be one of 'paper', 'official', got 'details'"),
    ],
)
def test_what_does_not_fit_is_named_before_training(tuner, changes, words):
    with pytest.raises(ValueError, match=words):
        tuner(**changes).rehearse()


def test_a_rehearsal_is_silent_and_draws_nothing(tuner, recwarn):
    model, random = tuner(depth=3), torch.get_rng_state()
    model.rehearse(size=(32, 32))
    assert torch.equal(torch.get_rng_state(), random)
    assert not [warning for warning in recwarn if "too small" in str(warning.message)]
