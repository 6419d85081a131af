"""A tiny segmentation study: eighteen images, networks of widths 4 and 8, a few steps; every read of an image is noted."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from freqkd.studies import jobs, run

STUDENT = """
default_scope = 'mmseg'
custom_imports = dict(imports=['freqkd.registry', 'noted_reads'], allow_failed_imports=False)
model = {model!r}
_load = [dict(type='LoadImageFromFile'), dict(type='NoteRead', file={reads!r}), dict(type='LoadAnnotations')]
_train = dict(
    type='BaseSegDataset', data_root={root!r}, metainfo=dict(classes=tuple('abcde'), palette=[[0, 0, 0]] * 5),
    img_suffix='.png', seg_map_suffix='.png', data_prefix=dict(img_path='img/train', seg_map_path='ann/train'),
    pipeline=[*_load, dict(type='RandomFlip', prob=0.5), dict(type='PackSegInputs')])
train_dataloader = dict(batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler', shuffle=True), dataset=_train)
val_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(_train, data_prefix=dict(img_path='img/val', seg_map_path='ann/val'),
                 pipeline=[*_load, dict(type='PackSegInputs')]))
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
val_cfg = dict(type='ValLoop')
train_cfg = dict(type='IterBasedTrainLoop', max_iters={steps}, val_interval={steps})
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=2e-3))
log_level = 'WARNING'
"""
STUDY = """
name = 'toy'
student = {student!r}
teacher = {teacher!r}
metric = dict(key='mIoU', scale=100.0)
selection = dict(fraction=0.3)
_term = dict(align=dict(type='freqkd.ConvAlign', student_channels=8, teacher_channels=16, num_levels=4))
methods = dict(mse=dict(terms=dict(loss_mse=dict(_term, loss=dict(type='freqkd.MSELoss')))))
search = dict(methods=[dict(ratio=1.0), dict(ratio=4.0)], student=[dict(lr=1.0), dict(lr=0.01)])
seeds = 2
budget = 6
{more}
"""
NOTED = """
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS
@TRANSFORMS.register_module()
class NoteRead(BaseTransform):
    def __init__(self, file):
        self.file = file
    def transform(self, results):
        with open(self.file, 'a') as log:
            log.write(results['img_path'] + '\\n')
        return results
"""


class Fork:
    """A run in a child of this process, which has loaded everything already; as `subprocess.Popen`."""

    def __init__(self, config: Path, log: Path) -> None:
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 99
            try:
                handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(handle, 1)
                os.dup2(handle, 2)
                sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
                torch.set_num_threads(1)
                gc.freeze()  # data sets collect garbage, which looks at everything that was loaded
                _forget_runs()
                self.prepare(config)
                code = run.run_tool(run.main, [str(config), "--parent", str(os.getppid())])
            finally:
                os._exit(code)

    def prepare(self, config: Path) -> None:
        """Do something in the child before the run."""

    def wait(self) -> int:
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


def _forget_runs() -> None:
    from mmengine.logging import MessageHub, MMLogger
    from mmengine.registry import DefaultScope
    from mmengine.visualization import Visualizer

    for kind in (MessageHub, MMLogger, DefaultScope, Visualizer):
        kind._instance_dict.clear()


def _write_images(root: Path) -> None:
    """Coloured blocks under noise, labelled by their colour."""
    noise = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 6)):
        for kind in ("img", "ann"):
            (root / kind / split).mkdir(parents=True)
        for index in range(count):
            labels = noise.integers(0, 5, (4, 6)).repeat(16, 0).repeat(16, 1).astype(np.uint8)
            image = (40 * labels[..., None] + noise.integers(0, 60, (64, 96, 3))).astype(np.uint8)
            cv2.imwrite(str(root / "img" / split / f"{index:02}.png"), image)
            cv2.imwrite(str(root / "ann" / split / f"{index:02}.png"), labels)


@pytest.fixture(scope="session")
def toy_data(small: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], str]:
    """Return `toy_data(folder, reads="")`: the student's config, written there, which notes reads, in `folder/reads`."""
    root = tmp_path_factory.mktemp("toy")
    _write_images(root)
    (root / "noted_reads.py").write_text(NOTED)
    sys.path.insert(0, str(root))

    def write(folder: Path, reads: str = "") -> str:
        model = small.config("segmentation", 4)
        path = folder / "student.py"
        path.write_text(STUDENT.format(model=model, reads=reads or str(folder / "reads"), root=str(root), steps=60))
        return str(path)

    return write


@pytest.fixture(scope="session")
def toy_study(toy_data: Any, teachers: Any) -> Callable[..., str]:
    """Return `toy_study(folder, more="", reads="", **values)`: a study file and its student, written to a folder."""

    def write(folder: Path, more: str = "", reads: str = "", **values: Any) -> str:
        values = dict(student=toy_data(folder, reads), teacher=teachers("segmentation")) | values
        (folder / "study.py").write_text(STUDY.format(more=more, **values))
        return str(folder / "study.py")

    return write


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start runs as forks, which saves the seconds that Python takes to import everything."""
    monkeypatch.setattr(jobs, "launch", Fork)
