"""Resuming: which checkpoint is taken, what is refused, what a failed write leaves."""

from __future__ import annotations

import errno
import os
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import mmengine.fileio
import numpy as np
import pytest
import torch
from torch import nn

from freqkd.hooks.checkpoint import CheckpointHook
from freqkd.utils.checkpoints import CheckpointError, check_start, read_checkpoint, write_atomic
from freqkd.utils.randomness import get_random_state, set_random_state

LONGER = ("--resume", "--cfg-options", "train_cfg.max_iters=6")


@pytest.fixture(scope="module")
def run(tool, tiny_config, trained, tmp_path_factory):
    """A distillation with checkpoints after 2, 4 and 5 steps: its config and its folder."""
    folder = tmp_path_factory.mktemp("resume")
    more = f"model = dict(terms=dict(loss_freekd=dict(prompts={str(trained('segmentation').prompts)!r})))"
    config = tiny_config(folder / "config.py", "segmentation", "distill", more, iterations=5)
    config.write_text(config.read_text().replace("interval=5", "interval=2"))
    assert tool("train", config, "--work-dir", folder / "run") == 0
    assert {path.name for path in (folder / "run").glob("*.pth")} == {"iter_2.pth", "iter_4.pth", "iter_5.pth"}
    return config, folder / "run"


@pytest.fixture
def resume(run, tool, tmp_path, capsys):
    """Return `resume(damage, *arguments)`: exit code and messages of a training resumed in a copy of that folder."""

    def go(damage=lambda folder: None, *arguments):
        shutil.copytree(run[1], tmp_path / "run")
        (tmp_path / "run" / "last_checkpoint").write_text(str(tmp_path / "run" / "iter_5.pth"))
        damage(tmp_path / "run")
        capsys.readouterr()
        code = tool("train", run[0], "--work-dir", tmp_path / "run", *LONGER, *arguments)
        return code, capsys.readouterr().err

    return go


def cut(name, length=1000):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:length])


DAMAGED = {
    "nothing": (lambda folder: None, "iter_5.pth", False),
    "the newest is cut": (cut("iter_5.pth"), "iter_4.pth", True),
    "the newest is empty": (cut("iter_5.pth", 0), "iter_4.pth", True),
    "the newest lacks its last byte": (cut("iter_5.pth", -1), "iter_4.pth", True),
    "the newest is missing": (lambda folder: (folder / "iter_5.pth").unlink(), "iter_4.pth", False),
    "two are cut": (lambda folder: [cut(name)(folder) for name in ("iter_5.pth", "iter_4.pth")], "iter_2.pth", True),
    "last_checkpoint is missing": (lambda folder: (folder / "last_checkpoint").unlink(), "iter_5.pth", False),
    "last_checkpoint is empty": (lambda folder: (folder / "last_checkpoint").write_text(""), "iter_5.pth", False),
    "last_checkpoint is not text": (
        lambda folder: (folder / "last_checkpoint").write_bytes(b"\xff\xfe\x00"),
        "iter_5.pth",
        False,
    ),
    "the newest holds numbers that are not finite": (
        lambda folder: spoil(folder / "iter_5.pth"),
        "iter_4.pth",
        True,
    ),
}


def spoil(path):
    checkpoint = read_checkpoint(path)
    checkpoint["state_dict"]["backbone.conv1.weight"][0] = float("nan")
    write_atomic(checkpoint, path)


@pytest.mark.parametrize(
    "case", [name if name in list(DAMAGED)[1:2] else pytest.param(name, marks=pytest.mark.long) for name in DAMAGED]
)
def test_a_training_resumes_from_the_newest_whole_checkpoint(case, resume, tmp_path):
    damage, name, is_said = DAMAGED[case]
    code, messages = resume(damage)
    assert code == 0, messages
    log = max((tmp_path / "run").rglob("*.log"), key=lambda path: path.stat().st_mtime).read_text()
    assert f"resumed epoch: 0, iter: {name[5]}" in log
    assert (f"--resume continues from {tmp_path / 'run' / name}, because checkpoint" in messages) == is_said


def test_where_no_checkpoint_is_whole_the_training_does_not_start_again(resume, tmp_path):
    code, messages = resume(lambda folder: [cut(f"iter_{step}.pth")(folder) for step in (2, 4, 5)])
    assert code == 1
    assert "cannot resume: no checkpoint in" in messages
    assert "delete the damaged files to start again" in messages
    assert not (tmp_path / "run" / "iter_6.pth").exists()


def test_where_there_is_no_checkpoint_the_training_says_that_it_starts(run, tool, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "freqkd.apis.train.build_runner", lambda config: (_ for _ in ()).throw(ValueError("it would start"))
    )
    assert tool("train", run[0], "--work-dir", tmp_path / "new", "--resume") == 1
    messages = capsys.readouterr().err
    assert "--resume: no checkpoint in" in messages
    assert "starts at its first step" in messages
    assert "it would start" in messages


@pytest.fixture
def others(trained, tmp_path):
    """Prompts of other values and a teacher of other weights, each fit for the config."""
    prompts = read_checkpoint(trained("segmentation").prompts)
    prompts["state_dict"]["prompts.0.tokens"] += 0.5
    write_atomic(prompts, tmp_path / "prompts.pth")
    weights = read_checkpoint("data/teachers/road-scenes_semantic-fpn-r18w48.pth")
    weights["state_dict"]["decode_head.conv_seg.bias"] += 0.5
    write_atomic(weights, tmp_path / "teacher.pth")
    return SimpleNamespace(prompts=tmp_path / "prompts.pth", teacher=tmp_path / "teacher.pth")


def test_other_prompts_are_refused_on_resume(resume, others):
    code, messages = resume(lambda _: None, f"model.terms.loss_freekd.prompts={others.prompts}")
    assert code == 1
    assert "cannot resume: terms.loss_freekd.prompts must be what the checkpoint was trained with" in messages


def test_another_teacher_is_refused_on_resume(resume, others):
    """The prompts name their teacher; without prompts, the checkpoint does."""
    untrained = [
        f"model.terms.loss_freekd.{one}" for one in ("prompts=untrained", "loss.channels=64", "loss.num_levels=4")
    ]
    code, messages = resume(lambda _: None, f"model.teacher.checkpoint={others.teacher}", *untrained)
    assert code == 1
    assert "cannot resume: model.teacher must be what the checkpoint was trained with" in messages


def test_weights_that_fit_nothing_are_no_start(tool, tiny_config, tmp_path, capsys):
    write_atomic(dict(state_dict={"encoder.weight": torch.ones(3)}), tmp_path / "other.pth")
    more = f"load_from = {str(tmp_path / 'other.pth')!r}"
    config = tiny_config(tmp_path / "config.py", "segmentation", "student", more, iterations=1)
    assert tool("train", config, "--work-dir", tmp_path / "run") == 1
    assert "none of its 1 tensors fits the EncoderDecoder of the config" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_a_start_leaves_out_is_said():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    weights = {key: value for key, value in network.state_dict().items() if key.startswith("0.")}
    assert check_start(network, network.state_dict(), "a.pth") == ""
    left = check_start(network, {**weights, "head.weight": torch.ones(1)}, "a.pth")
    assert left.startswith("load_from=a.pth: 2 of 7 tensors are loaded from it (4 missing, first ['1.bias'")
    assert "1 unknown, first ['head.weight']" in left
    with pytest.raises(CheckpointError, match="none of its 1 tensors fits the Sequential"):
        check_start(network, {"0.weight": torch.ones(3, 3)}, "a.pth")


@pytest.mark.parametrize("failing", [1, 2])
def test_a_full_disk_costs_one_checkpoint_and_no_other(failing, tool, tiny_config, tmp_path, capsys, monkeypatch):
    """The second checkpoint does not fit: half of it is written, then the disk is full."""
    put, calls = mmengine.fileio.LocalBackend.put, []

    def full(backend, content, path):
        calls.append(path)
        if len(calls) < failing:
            return put(backend, content, path)
        Path(path).write_bytes(bytes(content)[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(mmengine.fileio.LocalBackend, "put", full)
    config = tiny_config(tmp_path / "config.py", "segmentation", "student", iterations=2)
    config.write_text(config.read_text().replace("interval=5, max_keep_ckpts=9", "interval=1, max_keep_ckpts=1"))
    assert tool("train", config, "--work-dir", tmp_path / "run") == 1
    message = capsys.readouterr().err
    assert "error: No space left on device" in message
    assert {path.name for path in (tmp_path / "run").glob("*.pth")} == ({"iter_1.pth"} if failing == 2 else set())
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]
    if failing == 2:
        assert read_checkpoint(tmp_path / "run" / "iter_1.pth")["meta"]["iter"] == 1


def test_random_states_are_put_back():
    random.seed(1), np.random.seed(2), torch.manual_seed(3), np.random.randn(1)
    state = get_random_state()
    first = random.gauss(0, 1), np.random.randn(3).tolist(), torch.randn(3).tolist()
    set_random_state(state)
    assert (random.gauss(0, 1), np.random.randn(3).tolist(), torch.randn(3).tolist()) == first


def test_another_number_of_processes_starts_other_random_numbers():
    said = []
    runner = SimpleNamespace(world_size=1, rank=0, logger=SimpleNamespace(warning=said.append))
    hook = CheckpointHook()
    hook._resumed = [get_random_state(), get_random_state()]
    runner.message_hub = SimpleNamespace(runtime_info={})
    runner.work_dir = "nowhere"
    hook_before = CheckpointHook.__mro__[1].before_train
    try:
        CheckpointHook.__mro__[1].before_train = lambda self, runner: setattr(self, "out_dir", "nowhere")
        state = torch.get_rng_state()
        hook.before_train(runner)
    finally:
        CheckpointHook.__mro__[1].before_train = hook_before
    assert torch.equal(state, torch.get_rng_state())
    assert "2 processes, this training has 1" in said[0]
