"""Data parallel training on a cached teacher: the processes fill one cache, learn from it, and leave it to any other number.

This file is also the program of the processes: they train the configs that they are called with.
"""

import json
import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from freqkd.datasets.fixed_views import VIEW
from freqkd.teacher.entries import entry_path, read_entry
from freqkd.utils.checkpoints import hash_weights

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("other_processes")]
ROOT = Path(__file__).resolve().parent.parent.parent
CACHED = ROOT / "configs/freekd/freekd-cached_neck_retinanet-r18w48_retinanet-r18w16_b8-12e_blood-cells.py"
IMAGES, BATCH, EPOCHS = 5, 3, 2  # two processes: one step an epoch, and one image in both batches of it
LIMIT = 2e-5  # for losses, which differ by less than the maps do: rounding errors of many values cancel
CONFIG = """
_base_ = [{base!r}]
train_dataloader = dict(batch_size={batch}, dataset=dict(views=1, dataset=dict(indices={images}, pipeline=[
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(160, 120), keep_ratio=True), dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')])))
train_cfg = dict(max_epochs={epochs})
randomness = dict(seed=3)  # of which each process meets an image in the second epoch that the other stored in the first
val_dataloader = val_cfg = val_evaluator = None
optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr=0.001, weight_decay=1e-4))
param_scheduler = []
default_hooks = dict(checkpoint=dict(interval=-1, save_last=False))
custom_hooks = [dict(type='mmengine.NoteSteps', path={path!r})]
model = dict(teacher=dict(cache={cache!r}), terms=dict(loss_freekd=dict(
    prompts='untrained', weight=1.0, loss=dict(channels=64, num_levels=3))))
"""


@HOOKS.register_module(name="NoteSteps", force=True)
class NoteSteps(Hook):
    """Writes what every step saw and lost, and how many images the teacher ran for, to `path.RANK`."""

    def __init__(self, path):
        self.path, self.steps, self.ran = path, [], []

    def before_train(self, runner):
        self.model = getattr(runner.model, "module", runner.model)
        backbone = self.model.teacher.model.backbone
        backbone.register_forward_pre_hook(lambda module, inputs: self.ran.append(len(inputs[0])))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        views = [sample.metainfo[VIEW] for sample in data_batch["data_samples"]]
        losses = {name: value.item() for name, value in outputs.items()}
        step = dict(images=[view.image for view in views], pixels=[view.pixels for view in views])
        self.steps.append(dict(step, ran=sum(self.ran), losses=losses))
        self.ran.clear()

    def after_train(self, runner):
        parameters = hash_weights(dict(self.model.named_parameters()))
        answer = dict(world=runner.world_size, parameters=parameters, steps=self.steps)
        Path(f"{self.path}.{runner.rank}").write_text(json.dumps(answer))


def train(*configs):
    """Train configs, as one of the processes."""
    sys.path.insert(0, str(ROOT / "tools"))
    import torch
    import train as tool
    from yapf.yapflib import yapf_api

    import freqkd.apis.arguments
    import freqkd.apis.train

    torch.set_num_threads(1)
    yapf_api.FormatCode = lambda text, **options: (text, True)  # takes longer than the steps
    freqkd.apis.train.check_training = lambda *_: None  # so does the rehearsal
    for config in configs:
        code = freqkd.apis.arguments.run_tool(tool.main, [config, "--work-dir", config[:-3], "--launcher", "pytorch"])
        assert code == 0, code


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    """Return `write(name, cached, **changes)`: a config whose answers go to files of its name, and that name's path."""
    folder = tmp_path_factory.mktemp("processes")

    def make(name, cached, batch=BATCH, epochs=EPOCHS):
        cache = dict(dir=str(folder / "cache"), views=1) if cached else None
        text = CONFIG.format(
            base=str(CACHED), images=IMAGES, batch=batch, epochs=epochs, path=str(folder / name), cache=cache
        )
        (folder / f"{name}.py").write_text(text)
        return folder / name

    return make


def answers(path, world):
    found = [json.loads(Path(f"{path}.{rank}").read_text()) for rank in range(world)]
    assert [answer["world"] for answer in found] == [world] * world
    return found


@pytest.fixture(scope="module")
def two(write):
    """Two processes that train with a cache, then without: their answers, and the folder of the cache."""
    paths = [write(name, name == "cached") for name in ("cached", "uncached")]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, __file__, *(f"{path}.py" for path in paths)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    cached, uncached = (answers(path, 2) for path in paths)
    return SimpleNamespace(cached=cached, uncached=uncached, folder=paths[0].parent / "cache")


def assert_same_losses(cached, uncached):
    """Rounded maps change the losses a little."""
    for one, other in zip(cached, uncached, strict=True):
        assert one["pixels"] == other["pixels"]
        assert one["losses"] == pytest.approx(other["losses"], rel=LIMIT)
    assert [step["losses"] for step in cached] != [step["losses"] for step in uncached]


def test_the_teacher_runs_in_the_first_epoch_alone_and_each_process_reads_what_the_other_stored(two):
    steps = [answer["steps"] for answer in two.cached]
    assert [len(found) for found in steps] == [EPOCHS] * 2
    for epoch in zip(*steps, strict=True):
        assert {image for step in epoch for image in step["images"]} == set(range(IMAGES))
    for found in steps:
        assert found[0]["ran"] in (BATCH - 1, BATCH)  # one image is in both batches
        assert found[1]["ran"] == 0
        assert set(found[1]["images"]) - set(found[0]["images"])
    assert all(step["ran"] == BATCH for answer in two.uncached for step in answer["steps"])


def test_losses_are_those_of_the_running_teacher(two):
    for cached, uncached in zip(two.cached, two.uncached, strict=True):
        assert_same_losses(cached["steps"], uncached["steps"])
    losses = [step["losses"]["distill.loss_freekd"] for answer in two.cached for step in answer["steps"]]
    assert all(abs(one / other - 1) > LIMIT for one, other in combinations(losses, 2))
    assert two.cached[0]["parameters"] == two.cached[1]["parameters"]


def test_every_view_is_stored_once_and_whole(two):
    seen = {pair for answer in two.cached for step in answer["steps"] for pair in zip(step["images"], step["pixels"])}
    stored = {entry_path(two.folder, image, 0): pixels for image, pixels in seen}
    assert len(stored) == len(seen) == IMAGES
    assert {path for path in two.folder.rglob("*") if path.is_file()} == {*stored, two.folder / "manifest.json"}
    for path, pixels in stored.items():
        entry = read_entry(path)
        assert (entry.pixels, entry.size) == (pixels, (128, 160))


def test_one_process_reads_what_two_have_stored(two, write, tool, monkeypatch):
    def content():
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in two.folder.rglob("*") if path.is_file()}

    monkeypatch.setattr("freqkd.apis.train.check_training", lambda *_: None)
    before, steps = content(), []
    for name, cached in (("one_cached", True), ("one_uncached", False)):
        path = write(name, cached, epochs=1)
        assert tool("train", f"{path}.py", "--work-dir", path) == 0
        steps.append(answers(path, 1)[0]["steps"])
    assert [[step["ran"] for step in found] for found in steps] == [[0, 0], [BATCH, IMAGES - BATCH]]
    assert_same_losses(*steps)
    assert content() == before


if __name__ == "__main__":
    train(*sys.argv[1:])
