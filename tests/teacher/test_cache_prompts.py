"""Prompts are trained on cached maps, where those are all that the heads take."""

import pytest
import torch
from mmengine.registry import DefaultScope

from freqkd.models.prompt_tuner import PromptTuner
from freqkd.teacher.fill import fill_cache

SCOPES = dict(detection="mmdet", segmentation="mmseg")
TASKS = tuple(SCOPES)


@pytest.fixture
def tuner(teachers, tmp_path):
    """Return `tuner(task, tap="neck", options=None)`: a PromptTuner whose teacher has a cache."""

    def make(task, tap="neck", options=None):
        cache = dict(dir=str(tmp_path / "cache"), views=2)
        prompts = dict(channels=16, num_levels=5 if task == "detection" else 4, depth=1)
        teacher = {**teachers(task), "cache": cache, "cfg_options": options or {}}
        with DefaultScope.overwrite_default_scope(SCOPES[task]):
            return PromptTuner(teacher, prompts, tap=tap)

    return make


@pytest.mark.parametrize("task", TASKS)
def test_prompts_learn_the_same_without_backbone_and_neck(tuner, photos, step, task):
    model, views = tuner(task), photos(task)
    batch = step.batch(model, views, (0, 0), (1, 1))
    step.losses(model, batch)
    ran = step.runs(model)

    def learn():
        model.zero_grad()
        losses = step.losses(model, batch)
        model.parse_losses(losses)[0].backward()
        return losses, [prompt.tokens.grad.clone() for prompt in model.prompts]

    cached_losses, cached_grads = learn()
    assert ran == []
    model.teacher = model.teacher.teacher
    running_losses, running_grads = learn()
    assert ran == [2, 2]
    assert list(cached_losses) == list(running_losses)
    for name in running_losses:
        for one, other in zip(flat(cached_losses[name]), flat(running_losses[name]), strict=True):
            torch.testing.assert_close(one, other, rtol=2e-3, atol=1e-5)
    for one, other in zip(cached_grads, running_grads, strict=True):
        assert float(other.abs().max()) > 0
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.02 * float(other.abs().max()))


def test_both_stages_read_one_cache(tuner, step, cached, photos):
    model, views = tuner("detection"), photos()
    assert fill_cache(model, views) == 6
    student = cached()
    student.prepare()
    ran = step.runs(student)
    step.losses(student, step.batch(student, views, (0, 0), (1, 1)))
    assert ran == []


def test_a_masked_teacher_predicts_without_the_cache(tuner, step, small):
    model = tuner("detection")
    data = model.data_preprocessor(small.raw("detection"), False)
    ran = step.runs(model)
    model(data["inputs"], data["data_samples"], mode="predict")
    assert ran == [2, 2]
    assert not model.teacher.dir.exists()


@pytest.mark.parametrize("tap", ["backbone", "decode_head.conv_seg", "neck.fpn_convs.3"])
def test_a_tap_that_is_not_all_the_heads_take_is_refused(tuner, tap):
    with pytest.raises(
        ValueError, match=rf"tap must be 'neck', all that the heads of EncoderDecoder take.* got '{tap}'"
    ):
        tuner("segmentation", tap=tap).rehearse()


def flat(loss):
    return loss if isinstance(loss, list) else [loss]
