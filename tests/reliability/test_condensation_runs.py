"""Trainings on a condensed data set: values, schedules, resuming, several processes, blends, pictures."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.hooks import Hook
from mmengine.model import BaseModel, ImgDataPreprocessor
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from reliability.test_global_batch import in_two_processes
from reliability.test_interruption import differing
from torch import nn
from torch.utils.data import DataLoader, Dataset

from freqkd.datasets import CondensedSampler
from freqkd.datasets.condensation import blend
from freqkd.hooks.condensation import STATE, CondensationHook
from freqkd.utils.checkpoints import CheckpointError, read_checkpoint

pytestmark = pytest.mark.usefixtures("fresh")
IMAGES = 12
SCHEDULES = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=8),
    dict(type="CosineAnnealingLR", by_epoch=True, begin=0, end=6, T_max=6, convert_to_iter_based=True),
    dict(type="MultiStepLR", by_epoch=True, milestones=[4]),
]


class Photos(Dataset):
    """Images of two sizes, the higher their index, the more they differ from black."""

    metainfo = dict(classes=("a", "b"))

    def __len__(self):
        return IMAGES

    def get_data_info(self, index):
        return dict(img_path=f"{index}.png")

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        size = (3, 4, 6) if index % 2 else (3, 4, 4)
        image = (torch.randint(0, 256, size, generator=generator) * (index + 1) // IMAGES).byte()
        image = image.flip(-1) if torch.rand(()) < 0.5 else image  # the training's random numbers
        return dict(
            inputs=image,
            data_samples=BaseDataElement(metainfo=dict(img_path=f"{index}.png", img_shape=tuple(size[1:]))),
        )


class Pixels(BaseModel):
    """Class scores of pixels."""

    def __init__(self):
        super().__init__(ImgDataPreprocessor(mean=[0.0] * 3, std=[255.0] * 3, pad_value=0))
        self.classifier = nn.Conv2d(3, 2, 1)

    def forward(self, inputs, data_samples=None, mode="tensor"):
        logits = self.classifier(inputs)
        return dict(loss=(logits[:, 0] - inputs.mean(1)).square().mean() - logits[:, 1].sigmoid().mean())


class Noted(Hook):
    """Notes the learning rate after every epoch, and the number of iterations."""

    priority = "VERY_LOW"

    def __init__(self):
        self.rates, self.steps = [], 0

    def after_train_epoch(self, runner):
        self.rates.append(runner.optim_wrapper.get_lr()["lr"][0])

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.steps += 1


def build(folder, condensed=True, iterations=None, resume="", schedules=SCHEDULES, **changes):
    torch.manual_seed(0)
    data = Photos()
    options = {"keep": 0.5, "stages": 2, "seed": 0, **changes}
    sampler = CondensedSampler(data, **options) if condensed else torch.utils.data.RandomSampler(data)
    loop = dict(by_epoch=False, max_iters=iterations) if iterations else dict(by_epoch=True, max_epochs=6)
    checkpoint = dict(type="freqkd.CheckpointHook", by_epoch=not iterations, interval=5 if iterations else 1)
    noted = Noted()
    hooks = [CondensationHook("classifier", num_classes=2, activation="softmax")] if condensed else []
    runner = Runner(
        model=Pixels(),
        work_dir=str(folder),
        train_dataloader=DataLoader(data, 2, sampler=sampler, collate_fn=pseudo_collate),
        train_cfg=loop,
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        param_scheduler=ConfigDict(a=schedules).a if schedules else None,
        default_hooks=dict(checkpoint=checkpoint, logger=dict(type="LoggerHook", interval=1)),
        custom_hooks=[*hooks, noted],
        visualizer=dict(
            type="Visualizer", vis_backends=[dict(type="LocalVisBackend")], name=f"{folder.parent.name}_{folder.name}"
        ),
        load_from=resume or None,
        resume=bool(resume),
        log_level="WARNING",
        experiment_name=f"{folder.parent.name}_{folder.name}",
    )
    return runner, sampler, noted


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A training over six epochs: its folder, its sampler, what was noted, and the plain training beside it."""
    folder = tmp_path_factory.mktemp("condensed")
    runner, sampler, noted = build(folder / "run")
    runner.train()
    plain, _, beside = build(folder / "plain", condensed=False)
    plain.train()
    return SimpleNamespace(folder=folder / "run", runner=runner, sampler=sampler, noted=noted, plain=beside)


def test_the_schedules_are_where_they_would_be_at_the_end_of_every_epoch(finished):
    assert finished.plain.steps == 36
    assert finished.noted.steps == 6 + 6 + 5 + 5 + 3 + 3 == finished.runner.max_iters == finished.runner.iter
    assert finished.noted.rates == pytest.approx(finished.plain.rates, rel=1e-6)
    assert len({f"{rate:.6f}" for rate in finished.noted.rates}) == 6
    assert finished.noted.rates[-1] < 1e-3 * finished.noted.rates[0]


def test_fewer_images_are_visited_and_the_number_is_said(finished, tmp_path):
    assert finished.sampler.values.seen.sum() == 2 * (12 + 9 + 6)
    assert sorted(finished.sampler.values.seen.tolist()) == [2] * 3 + [4] * 3 + [6] * 6
    said = []
    finished.runner.logger.info, before = said.append, finished.runner.logger.info
    CondensationHook("classifier").after_train(finished.runner)
    finished.runner.logger.info = before
    assert said == [
        "Condensation: 54 images were visited in 28 iterations, 18 fewer than the 72 of all 12 in 6 epochs; 6 of 12 are kept "
        "at the end"
    ]


def test_the_stages_are_pictured(finished):
    import cv2

    pictures = sorted(finished.folder.rglob("condensation_*.png"))
    assert [path.name for path in pictures] == ["condensation_12.png", "condensation_22.png"]
    assert cv2.imread(str(pictures[0])).std() > 5


def result(path):
    saved = read_checkpoint(path)
    return {part: saved.get(part) for part in ("state_dict", "param_schedulers", "freqkd", STATE)}


@pytest.mark.parametrize("epoch", [2, 3])
def test_a_resumed_training_over_epochs_ends_the_same_to_the_bit(finished, tmp_path, epoch):
    """Killed after an epoch: between two stages, and within one."""
    torch.manual_seed(9)
    runner, _, _ = build(tmp_path, resume=str(finished.folder / f"epoch_{epoch}.pth"))
    runner.train()
    assert differing(result(finished.folder / "epoch_6.pth"), result(tmp_path / "epoch_6.pth")) == []


def test_a_resumed_training_over_iterations_ends_the_same_to_the_bit(tmp_path):
    """27 iterations of 2 images: two passes over 12, two over 9, two over 6."""
    runner, sampler, noted = build(tmp_path / "whole", iterations=27, schedules=None)
    runner.train()
    assert (sampler.interval, noted.steps, len(sampler.found)) == (2, 27, 3)
    assert sorted(sampler.values.seen.tolist()) == [2] * 3 + [4] * 3 + [6] * 6
    resumed, _, _ = build(
        tmp_path / "resumed", iterations=27, resume=str(tmp_path / "whole" / "iter_15.pth"), schedules=None
    )
    resumed.train()
    ends = [result(tmp_path / name / "iter_27.pth") for name in ("whole", "resumed")]
    assert differing(*ends) == []


def test_a_resume_without_values_is_refused(finished, tmp_path):
    runner, _, _ = build(tmp_path)
    runner._resume = True
    with pytest.raises(CheckpointError, match="the checkpoint has no values of images"):
        runner.call_hook("after_load_checkpoint", checkpoint={})


def test_two_processes_draw_one_set(tmp_path):
    """Each trains by itself, so that both have other entropies, and still they keep the same images and share them."""

    def work(rank):
        runner, sampler, _ = build(tmp_path / f"run{rank}", schedules=None)
        with torch.no_grad():
            runner.model.classifier.weight.mul_(1 + 5 * rank)
        runner.train()
        drawn = []
        for epoch in (2, 4):
            sampler.set_epoch(epoch)
            drawn.append(list(sampler))
        return dict(
            sampler.state_dict(), drawn=drawn, steps=runner.iter, weight=runner.model.classifier.weight.detach()
        )

    one, other = in_two_processes(work, tmp_path)
    assert not torch.equal(one["weight"], other["weight"])
    assert torch.equal(one["mean"], other["mean"])
    assert one["seen"].sum() == 2 * (12 + 10 + 6)  # 9 images for two processes are 10
    for stage, here, there in zip(one["stages"][1:], one["drawn"], other["drawn"], strict=True):
        assert set(here) | set(there) == set(stage["kept"].tolist())
        assert len(here) == len(there)
    assert not set(one["drawn"][1]) & set(other["drawn"][1])
    assert one["steps"] == other["steps"] == 3 + 3 + 3 + 3 + 2 + 2


SHORT = """
_base_ = ['{root}/configs/kcd/kcd_logits_retinanet-r18w48_retinanet-r18w16_b8-12e_blood-cells.py']
train_dataloader = dict(batch_size=2, sampler=dict(keep=0.5, stages=2), dataset=dict(indices=6, pipeline=[
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(80, 60), keep_ratio=True), dict(type='PackDetInputs')]))
train_cfg = dict(max_epochs=3)
val_dataloader = val_cfg = val_evaluator = None
"""


def test_the_sample_detector_visits_fewer_images(tool, tmp_path, request):
    (tmp_path / "config.py").write_text(SHORT.format(root=request.config.rootpath))
    assert tool("train", tmp_path / "config.py", "--work-dir", tmp_path / "run", "--no-rehearsal") == 0
    log = next((tmp_path / "run").rglob("*.log")).read_text()
    assert "Condensation: stage 1 of 2, 5 of 6 images are kept from epoch 2 on" in log
    assert (  # 6 + 5 + 3 images
        "Condensation: 14 images were visited in 8 iterations, 4 fewer than the 18 of all 6 in 3 epochs; 3 of 6 are kept"
    ) in log
    saved = read_checkpoint(tmp_path / "run" / "epoch_3.pth")
    assert (saved["meta"]["iter"], int(saved[STATE]["seen"].sum())) == (8, 14)
    student = (tmp_path / "run" / "student_config.py").read_text()  # names nothing of this package, and can be trained
    assert "freqkd" not in student
    assert "DefaultSampler" in student


def test_images_are_blended_with_those_that_are_dropped():
    sampler = CondensedSampler(Photos(), keep=0.5, stages=1, seed=0, interval=1)
    sampler.values.update((index, float(index)) for index in range(IMAGES))
    sampler.plan(passes=2)
    hook = CondensationHook("classifier", summary=0.5)
    hook._index = {f"{index}.png": index for index in range(IMAGES)}
    assert list(sampler.stage(1).summary(0.5)) == [11, 10, 9, 8, 7, 6]  # with 5, 4, 3, 2, 1, 0
    torch.manual_seed(1)
    batch = pseudo_collate([Photos()[index] for index in (11, 8)])
    before = [image.clone() for image in batch["inputs"]]
    state = torch.get_rng_state()
    hook._blend(sampler, batch)
    torch.set_rng_state(state)
    partner = Photos()[2]["inputs"]  # the fourth of six pairs
    assert torch.equal(batch["inputs"][0], before[0])
    assert torch.equal(batch["inputs"][1], blend(before[1], partner, 0.5 + 0.5 * 3 / 6))
    assert not torch.equal(batch["inputs"][1], before[1])


def test_images_that_cannot_be_told_apart_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Photos, "get_data_info", lambda self, index: dict(img_path="same.png"))
    runner, _, _ = build(tmp_path)
    with pytest.raises(ValueError, match=r"each image once, by its img_path.* got 'same.png' at index 1 and 0"):
        runner.train()
