"""What the hooks leave behind, and what they refuse."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from freqkd.checkpoints import CheckpointError, read_checkpoint
from freqkd.hooks.guards import ResumeGuard
from freqkd.hooks.masks import MaskHook
from freqkd.hooks.memory_format import ChannelsLastHook
from freqkd.hooks.progress import SECONDS, ProgressHook


def test_the_prompt_stage_leaves_its_file_and_its_statistics(trained):
    run = trained("segmentation")
    state = read_checkpoint(run.prompts)["state_dict"]
    assert sorted({key.split(".")[0] for key in state}) == ["prompts", "teacher_hash"]
    assert state["prompts.0.tokens"].shape == (10, 2, 64)
    assert run.prompts.stat().st_size < 300e3


def guard(state, resumed):
    model = nn.Module()
    model.state_dict = lambda: {"backbone.weight": 0, "distiller.loss_x.align.layers.0.weight": 0}
    ResumeGuard().after_load_checkpoint(SimpleNamespace(_resume=resumed, model=model), dict(state_dict=state))


def test_the_guard_refuses_to_resume_without_aligns_only():
    whole = {"backbone.weight": 0, "distiller.loss_x.align.layers.0.weight": 0}
    guard(whole, resumed=True)
    guard({"backbone.weight": 0}, resumed=False)
    with pytest.raises(CheckpointError, match=r"distiller\.loss_x\.align\.layers\.0\.weight"):
        guard({"backbone.weight": 0}, resumed=True)


def test_channels_last_changes_the_order_in_memory_and_nothing_else():
    model = nn.Conv2d(4, 8, 3)
    before = model.weight.detach().clone()
    ChannelsLastHook().before_train(SimpleNamespace(model=model))
    assert model.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model.weight.detach(), before)


def test_progress_counts_seconds_on_from_an_earlier_run(capsys, monkeypatch):
    hub = SimpleNamespace(runtime_info={SECONDS: 100.0})
    hub.update_info = lambda key, value: hub.runtime_info.update({key: value})
    runner = SimpleNamespace(message_hub=hub, iter=0, max_iters=2)
    now = [0.0]
    monkeypatch.setattr("freqkd.hooks.progress.time.monotonic", lambda: now[0])
    hook = ProgressHook("stage", every=1000)
    hook.out = None
    hook.before_train(runner)
    now[0] = 3.0
    hook.after_train_iter(runner, 0)
    hook.before_val(runner)
    now[0] = 50.0  # validation is not counted
    hook.after_val(runner)
    runner.iter = 1
    now[0] = 54.0
    hook.after_train_iter(runner, 1)
    assert hub.runtime_info[SECONDS] == 107.0
    assert "step 2 of 2, 3.50 s each, 107 s" in capsys.readouterr().out


def test_the_mask_hook_sends_pictures_at_its_interval(monkeypatch):
    sent = []
    monkeypatch.setattr("freqkd.hooks.masks.mask_pictures", lambda *_: {"loss_freekd/level0": "picture"})
    model = nn.Module()
    model.data_preprocessor = lambda batch, training: dict(inputs=torch.zeros(2, 3, 4, 4), data_samples=[None, None])
    visualizer = SimpleNamespace(add_image=lambda name, picture, step: sent.append((name, picture, step)))
    for step in range(4):
        runner = SimpleNamespace(model=model, visualizer=visualizer, iter=step)
        MaskHook(interval=2).after_train_iter(runner, step, data_batch={})
    assert sent == [("masks/loss_freekd/level0", "picture", 2), ("masks/loss_freekd/level0", "picture", 4)]
    with pytest.raises(ValueError, match="interval must be at least 1"):
        MaskHook(interval=0)
