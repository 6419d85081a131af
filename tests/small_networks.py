"""Small real networks of mmdet and mmseg, a teacher of each on disk, and batches for them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData, PixelData
from torch.utils.data import Dataset

import freqkd.registry  # noqa: F401

ROOT = Path(__file__).resolve().parent.parent
SCOPES = {"detection": "mmdet", "segmentation": "mmseg"}
MODEL_FILES = {"detection": "retinanet_r18", "segmentation": "semantic_fpn_r18"}


def _network(task: str, width: int, **changes: Any) -> dict[str, Any]:
    """A detector or segmenter of a base width, whose neck has twice as many channels."""
    model = Config.fromfile(ROOT / "configs/_base_/models" / f"{MODEL_FILES[task]}.py").model
    wide = 2 * width
    model.backbone.base_channels = width
    model.neck.update(in_channels=[width * 2**i for i in range(4)], out_channels=wide)
    if task == "detection":
        model.bbox_head.update(in_channels=wide, feat_channels=wide, stacked_convs=1)
    else:
        model.data_preprocessor.size = (64, 96)
        model.decode_head.update(in_channels=[wide] * 4, channels=wide)
        model.auxiliary_head = dict(
            type="FCNHead", in_channels=wide, in_index=2, channels=wide, num_convs=1, num_classes=5, dropout_ratio=0.5
        )
        model.auxiliary_head["loss_decode"] = dict(type="CrossEntropyLoss", loss_weight=0.4)
        model.auxiliary_head["norm_cfg"] = dict(type="BN")
    changed = Config(dict(model=model.to_dict()))
    changed.merge_from_dict({f"model.{key.replace('__', '.')}": value for key, value in changes.items()})
    return changed.model.to_dict()


def _build(config: dict[str, Any], task: str) -> Any:
    with DefaultScope.overwrite_default_scope(SCOPES[task]):
        return MODELS.build(ConfigDict(copy.deepcopy(config)))


def _samples(task: str, sizes: tuple[tuple[int, int], ...]) -> list[Any]:
    if task == "detection":
        from mmdet.structures import DetDataSample

        found = []
        for height, width in sizes:
            sample = DetDataSample(
                metainfo=dict(img_shape=(height, width), ori_shape=(height, width), scale_factor=(1, 1))
            )
            boxes = torch.tensor([[4.0, 6.0, 30.0, 40.0], [10.0, 10.0, 26.0, 24.0]])
            sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, 2]))
            sample.ignored_instances = InstanceData(bboxes=boxes[:0], labels=torch.zeros(0, dtype=torch.long))
            found.append(sample)
        return found
    from mmseg.structures import SegDataSample

    found = []
    for index, (height, width) in enumerate(sizes):
        sample = SegDataSample(metainfo=dict(img_shape=(height, width), ori_shape=(height, width)))
        labels = torch.from_numpy(np.random.default_rng(index).integers(0, 5, (1, height, width)))
        sample.gt_sem_seg = PixelData(data=labels)
        found.append(sample)
    return found


@pytest.fixture(scope="session")
def small() -> SimpleNamespace:
    """`config(task, width, a__b=...)`, `build(config, task)` and `raw(task, sizes)`: a collated batch of byte images."""

    def raw(task: str, sizes: tuple[tuple[int, int], ...] = ((64, 96), (64, 96))) -> dict[str, Any]:
        noise = np.random.default_rng(0)
        images = [torch.from_numpy(noise.integers(0, 256, (3, *size), dtype=np.uint8)) for size in sizes]
        return dict(inputs=images, data_samples=_samples(task, sizes))

    return SimpleNamespace(config=_network, build=_build, raw=raw)


@pytest.fixture(scope="session")
def teachers(small: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, str]]:
    """Return `teachers(task)`: config and checkpoint of a random teacher of width 8, with statistics and weights of its own."""
    folder = tmp_path_factory.mktemp("teachers")

    def make(task: str) -> dict[str, str]:
        config, checkpoint = folder / f"{task}.py", folder / f"{task}.pth"
        if not checkpoint.exists():
            with torch.random.fork_rng():
                torch.manual_seed(5)
                model = small.build(small.config(task, 8), task)
                model.init_weights()
                for name, buffer in model.named_buffers():
                    if "running" in name:
                        buffer.uniform_(*((-0.1, 0.1) if "mean" in name else (0.5, 1.5)))
            Config(dict(default_scope=SCOPES[task], model=small.config(task, 8))).dump(config)
            torch.save(dict(state_dict=model.state_dict()), checkpoint)
        return dict(config=str(config), checkpoint=str(checkpoint))

    return make


@pytest.fixture(scope="session")
def freekd_term() -> Callable[..., dict[str, Any]]:
    """Return `freekd_term(task, **changes)`: a FreeKD term on the neck, from width 4 (student) to width 8 (teacher)."""

    def make(task: str, **changes: Any) -> dict[str, Any]:
        levels = 5 if task == "detection" else 4
        align = dict(type="freqkd.ConvAlign", student_channels=8, teacher_channels=16, num_levels=levels)
        loss = dict(type="freqkd.FreeKDLoss", channels=16, num_levels=levels, depth=1)
        return dict(dict(student_tap="neck", align=align, loss=loss, prompts="untrained", weight=1.0), **changes)

    return make


@pytest.fixture(scope="session")
def distill(small: SimpleNamespace, teachers: Any, freekd_term: Any) -> Callable[..., Any]:
    """Return `distill(task, terms=..., student=..., **options)`: a Distiller of a width-4 student."""
    from freqkd.models.distiller import Distiller

    def make(task: str, terms: Any = None, student: Any = None, **options: Any) -> Any:
        options.setdefault("teacher", teachers(task))
        terms = dict(loss_freekd=freekd_term(task)) if terms is None else terms
        with DefaultScope.overwrite_default_scope(SCOPES[task]):
            return Distiller(student or small.config(task, 4), terms=terms, **options)

    return make


# ---- a cached teacher -----------------------------------------------------------------------------------------------


class Photos(Dataset):
    """Random images with the samples of a task; what is drawn depends on the generator alone."""

    metainfo = dict(classes=("a",))

    def __init__(self, task: str, sizes: list[tuple[int, int]], transforms: tuple[str, ...] = ("Noise()",)) -> None:
        self.task, self.sizes = task, sizes
        self.pipeline = SimpleNamespace(transforms=transforms)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = torch.randint(0, 256, (3, *self.sizes[index]), dtype=torch.uint8)
        return dict(inputs=image, data_samples=_samples(self.task, (self.sizes[index],))[0])


@pytest.fixture(scope="session")
def photos() -> Callable[..., Any]:
    """Return `photos(task, count=3, size=(64, 96), sizes=None, views=2, seed=0, **options)`: views of random images."""
    from freqkd.datasets.fixed_views import FixedViews

    def make(task: str = "detection", count: int = 3, size: Any = (64, 96), sizes: Any = None, **options: Any) -> Any:
        views, seed = options.pop("views", 2), options.pop("seed", 0)
        return FixedViews(Photos(task, sizes or [size] * count, **options), views, seed)

    return make


@pytest.fixture
def cached(distill: Any, teachers: Any, freekd_term: Any, tmp_path: Path) -> Callable[..., Any]:
    """Return `cached(task, taps=("neck",), student=None, folder=None, **teacher)`: a Distiller whose teacher has a cache."""
    heads = dict(detection="bbox_head.retina_cls", segmentation="decode_head.conv_seg")

    def make(
        task: str = "detection", taps: Any = ("neck",), student: Any = None, folder: Any = None, **changes: Any
    ) -> Any:
        logits = dict(loss=dict(type="freqkd.MSELoss"), student_tap=heads[task])
        known = dict(neck=dict(loss_freekd=freekd_term(task)), head=dict(loss_logits=logits))
        terms = {name: term for tap in taps for name, term in known[tap].items()}
        cache = dict(dir=str(folder or tmp_path / "cache"), views=2)
        return distill(
            task, terms=terms, student=student, teacher={**teachers(task), "cache": cache, **changes}
        ).train()

    return make


@pytest.fixture(scope="session")
def step() -> SimpleNamespace:
    """`batch(model, views, (image, view), ...)` preprocessed, `losses(model, batch)`, and `runs(model)` of the teacher.

    The last is a list that grows with the number of images at each run of the teacher's backbone, then of its neck.
    """

    def batch(model: Any, views: Any, *which: tuple[int, int]) -> tuple[Any, Any]:
        data = pseudo_collate([views.get_view(*one) for one in which])
        data = model.data_preprocessor(data, True)
        return data["inputs"], data["data_samples"]

    def losses(model: Any, batch: tuple[Any, Any]) -> dict[str, Any]:
        torch.manual_seed(0)  # dropout
        inputs, samples = batch
        found = model(inputs, copy.deepcopy(samples), mode="loss")
        return {name: loss for name, loss in found.items() if "loss" in name}

    def runs(model: Any) -> list[int]:
        found: list[int] = []
        backbone, neck = model.teacher.model.backbone, model.teacher.model.neck
        backbone.register_forward_pre_hook(lambda module, inputs: found.append(len(inputs[0])))
        neck.register_forward_pre_hook(lambda module, inputs: found.append(len(inputs[0][0])))
        return found

    return SimpleNamespace(batch=batch, losses=losses, runs=runs)
