"""Sampler and hook of a condensed data set: what is refused before a run."""

import pytest
from mmengine.config import ConfigDict

from freqkd.apis.preflight.condensation import check_condensation
from freqkd.apis.preflight.hooks import check_hooks
from freqkd.hooks.condensation import CondensationHook

SAMPLER, HOOK = dict(type="freqkd.CondensedSampler"), dict(type="freqkd.CondensationHook", tap="bbox_head.retina_cls")


@pytest.mark.parametrize(
    ("sampler", "hook", "words"),
    [
        (SAMPLER, None, "custom_hooks must have a freqkd.CondensationHook"),
        (dict(type="DefaultSampler"), HOOK, "train_dataloader.sampler must be a freqkd.CondensedSampler"),
        (dict(SAMPLER, keep=2), HOOK, "keep must be at most 1, got 2"),
        (SAMPLER, dict(HOOK, summary=2), r"custom_hooks\[0\]: summary must be at most 1, got 2"),
        (SAMPLER, dict(HOOK, tap="bbox_head.retina_clss"), "no module 'bbox_head.retina_clss'"),
        (SAMPLER, HOOK, ""),
        (dict(type="DefaultSampler"), None, ""),
    ],
)
def test_the_config_is_checked_before_the_run(sampler, hook, words, small):
    network = small.build(small.config("detection", 4), "detection")
    config = ConfigDict(train_dataloader=dict(sampler=sampler), custom_hooks=[hook] if hook else [])

    def check():
        check_condensation(config)
        check_hooks(network, config)

    if not words:
        check()
        return
    with pytest.raises(ValueError, match=words):
        check()


def test_a_tap_that_is_no_predictor_is_refused(small):
    network = small.build(small.config("detection", 4), "detection")
    with pytest.raises(ValueError, match="num_classes must be given, as the student's has no head there"):
        CondensationHook("neck").check_model(network)
    with pytest.raises(ValueError, match="activation must be 'sigmoid', as in the student's head, got 'softmax'"):
        CondensationHook("bbox_head.retina_cls", activation="softmax").check_model(network)
    measure = CondensationHook("bbox_head.retina_cls").check_model(network)
    with pytest.raises(ValueError, match="tap must be a module that runs in training"):
        measure([], [], (8, 8))


def test_blends_are_for_trainings_without_labels(distill, cached, teachers):
    hook = CondensationHook("bbox_head.retina_cls", summary=0.3)
    with pytest.raises(ValueError, match="summary must be 0 in a training with labels"):
        hook.check_model(distill("detection"))
    with pytest.raises(ValueError, match="summary must be 0 with a cached teacher"):
        hook.check_model(cached("detection"))
    with pytest.raises(ValueError, match=r"a student_tap of a term with own_losses=False.* the terms tap 'neck'"):
        hook.check_model(distill("detection", own_losses=False))
    term = dict(student_tap="bbox_head.retina_cls", loss=dict(type="freqkd.MSELoss"), weight=1.0)
    hook.check_model(distill("detection", terms=dict(loss_scores=term), own_losses=False))
