"""A whole training step of the shipped full-size pairs, at a size that fits: student alone, teacher, both ways to distil.

"teacher to its tap" is what a step here pays; "teacher, training forward" is the teacher's whole loss without a graph, as
toolkits do that let hooks on the teacher's own training step collect the features. Weights are random: time is all that counts.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import device, interleave, save
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData, PixelData

from freqkd.compat import read_config
from freqkd.distillers.teacher import Teacher, build_network
from freqkd.registry import MODELS

PAIRS = {
    "RetinaNet-R101 to R50": ("configs/retinanet/freekd_neck_retinanet-r101_retinanet-r50_8xb2-2x_coco.py", "mmdet"),
    "PSPNet-R101 to R18": ("configs/pspnet/freekd_bottleneck_pspnet-r101_pspnet-r18_4xb2-80k_cityscapes.py", "mmseg"),
}


def random_teacher(config: Any, scope: str, folder: Path) -> str:
    """A checkpoint of the teacher's architecture with random weights."""
    init_default_scope(scope)
    teacher = build_network(without_sync(read_config(config.model.teacher.config).model), scope)
    path = folder / "teacher.pth"
    torch.save(dict(state_dict=teacher.state_dict()), path)
    return str(path)


def without_sync(value: Any) -> Any:
    """SyncBN runs on accelerators in several processes only; one process trains with plain BN."""
    if isinstance(value, dict):
        if value.get("type") == "SyncBN":
            value["type"] = "BN"
        for item in value.values():
            without_sync(item)
    if isinstance(value, list):
        for item in value:
            without_sync(item)
    return value


def samples(scope: str, size: tuple[int, int], batch: int) -> dict[str, Any]:
    """Random images with two boxes, or a random map of classes."""
    height, width = size
    meta = dict(img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size, scale_factor=(1.0, 1.0))
    images = [torch.randint(0, 255, (3, height, width), dtype=torch.uint8) for _ in range(batch)]
    found = []
    for _ in range(batch):
        if scope == "mmdet":
            from mmdet.structures import DetDataSample

            sample = DetDataSample(metainfo=meta)
            box = torch.tensor([[0.1, 0.1, 0.6, 0.5], [0.3, 0.4, 0.9, 0.9]]) * torch.tensor([width, height] * 2)
            sample.gt_instances = InstanceData(bboxes=box, labels=torch.tensor([1, 2]))
        else:
            from mmseg.structures import SegDataSample

            sample = SegDataSample(metainfo=meta)
            sample.gt_sem_seg = PixelData(data=torch.from_numpy(np.random.randint(0, 19, (1, height, width))))
        found.append(sample)
    return dict(inputs=images, data_samples=found)


def pair_rows(path: str, scope: str, size: tuple[int, int], batch: int, folder: Path) -> dict[str, Callable[[], Any]]:
    """The steps of one pair."""
    config = without_sync(read_config(path))
    config.model.teacher.checkpoint = random_teacher(config, scope, folder)
    for term in config.model.terms.values():
        if term.get("prompts"):
            term.prompts = "untrained"
        term.weight = 1.0
    if config.model.student.data_preprocessor.get("size"):
        config.model.student.data_preprocessor.size = size  # what images are padded to
    init_default_scope(scope)
    distiller = MODELS.build(config.model).to(device()).train()
    distiller.prepare()
    student, teacher = distiller.student, distiller.teacher
    data = distiller.data_preprocessor(samples(scope, size, batch), True)
    paths = list(dict.fromkeys(path for term in distiller.terms.values() for path in term.teacher_paths))
    optimizer = torch.optim.SGD([p for p in distiller.parameters() if p.requires_grad], lr=1e-6)

    def train(model: Any) -> None:
        optimizer.zero_grad()
        loss, _ = model.parse_losses(model(**data, mode="loss"))
        loss.backward()
        optimizer.step()

    def look() -> None:
        teacher.extract(data["inputs"], data["data_samples"], paths)

    def teach() -> None:
        with torch.no_grad():
            teacher.model(**data, mode="loss")

    source = dict(config=config.model.teacher.config, checkpoint=config.model.teacher.checkpoint)
    cheaper = {
        "teacher, channels last": dict(channels_last=True),
        "teacher, norms folded": dict(fuse_norm=True),
        "teacher, both": dict(channels_last=True, fuse_norm=True),
        "teacher, both, bfloat16": dict(channels_last=True, fuse_norm=True, autocast="bfloat16"),
    }
    held = {name: Teacher(**source, **options) for name, options in cheaper.items()}
    for other in held.values():
        other.to(device())

    def look_with(other: Teacher) -> Callable[[], Any]:
        return lambda: other.extract(data["inputs"], data["data_samples"], paths)

    return {
        **{name: look_with(other) for name, other in held.items()},
        "student alone": lambda: train(student),
        "teacher to its tap": look,
        "distillation step": lambda: train(distiller),
        "teacher, training forward": teach,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, nargs=2, default=(256, 512), metavar=("HEIGHT", "WIDTH"))
    options = parser.parse_args(arguments)
    os.chdir(Path(__file__).resolve().parent.parent)
    rows = {}
    for name, (path, scope) in PAIRS.items():
        with tempfile.TemporaryDirectory() as folder:
            times = interleave(
                pair_rows(path, scope, tuple(options.size), options.batch, Path(folder)), options.repeats, 1
            )
        rows[name] = times
        for row, found in times.items():
            print(f"{name:24}{row:28}{found['median']:9.0f} ms")
    command = f"python benchmarks/iteration_speed.py --repeats {options.repeats} --batch {options.batch}"
    save("iteration_speed", rows, f"{command} --size {' '.join(map(str, options.size))}", size=list(options.size))


if __name__ == "__main__":
    sys.exit(main())
