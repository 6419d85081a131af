"""A whole training step of the shipped full-size pairs, at a size that fits: student alone, teacher, and distillation.

"teacher to its tap" is what a step here costs; "teacher, training forward" is the teacher's whole loss without a graph, as in
toolkits whose hooks collect the features on the teacher's own training step. "(plain)" is the step with `fused=False` in the
loss. Weights are random, since only time counts.
"""

from __future__ import annotations

import copy
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from measure import ROOT, Call, device, interleave, read_options, save
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData, PixelData
from shipped import find_config, prompt_stage, write_untrained

from freqkd.registry import MODELS
from freqkd.teacher.teacher import Teacher, build_network
from freqkd.utils.compat import read_config

PAIRS = {
    "RetinaNet-R101 to R50": "freekd_neck_retinanet-r101_retinanet-r50_8xb2-2x_coco",
    "PSPNet-R101 to R18": "freekd_bottleneck_pspnet-r101_pspnet-r18_4xb2-80k_cityscapes",
}
CHEAPER: dict[str, dict[str, Any]] = {
    "teacher, channels last": dict(channels_last=True),
    "teacher, norms folded": dict(fuse_norm=True),
    "teacher, both": dict(channels_last=True, fuse_norm=True),
    "teacher, both, bfloat16": dict(channels_last=True, fuse_norm=True, autocast="bfloat16"),
}


def random_teacher(source: str, scope: str, folder: Path) -> dict[str, str]:
    """Return a teacher of a config's architecture with random weights."""
    path = folder / "teacher.pth"
    torch.save(dict(state_dict=build_network(read_config(source).model, scope).state_dict()), path)
    return dict(config=source, checkpoint=str(path))


def samples(scope: str, size: tuple[int, int], batch: int) -> dict[str, Any]:
    """Return random images with two boxes, or a random map of classes."""
    height, width = size
    meta = dict(img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size, scale_factor=(1.0, 1.0))
    if scope == "mmdet":
        from mmdet.structures import DetDataSample

        boxes = torch.tensor([[0.1, 0.1, 0.6, 0.5], [0.3, 0.4, 0.9, 0.9]]) * torch.tensor([width, height] * 2)
        truth = InstanceData(bboxes=boxes, labels=torch.tensor([1, 2]))
        sample = DetDataSample(metainfo=meta, gt_instances=truth)
    else:
        from mmseg.structures import SegDataSample

        sample = SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=torch.randint(0, 19, (1, height, width))))
    images = [torch.randint(0, 255, (3, height, width), dtype=torch.uint8) for _ in range(batch)]
    return dict(inputs=images, data_samples=[copy.deepcopy(sample) for _ in range(batch)])


def pair_rows(name: str, size: tuple[int, int], batch: int, folder: Path) -> dict[str, Call]:
    """Return the steps of one pair."""
    config = find_config(name)
    model, scope = config.model, config.default_scope
    init_default_scope(scope)
    model.teacher = random_teacher(model.teacher.config, scope, folder)
    stage = prompt_stage(model.terms.loss_freekd.prompts)
    stage.model.teacher = model.teacher
    model.terms.loss_freekd.update(prompts=write_untrained(stage, folder / "prompts.pth"), weight=1.0)
    if model.student.data_preprocessor.get("size"):
        model.student.data_preprocessor.size = size  # what images are padded to
    distiller = revert_sync_batchnorm(MODELS.build(model)).to(device()).train()  # as the Runner does in one process
    distiller.prepare()
    loss = distiller.terms["loss_freekd"].loss
    data = distiller.data_preprocessor(samples(scope, size, batch), True)
    paths = distiller.terms["loss_freekd"].teacher_paths
    optimizer = torch.optim.SGD([p for p in distiller.parameters() if p.requires_grad], lr=1e-6)

    def train(model: Any, fused: bool = True) -> Call:
        def call() -> None:
            loss.fused = fused
            optimizer.zero_grad()
            model.parse_losses(model(**data, mode="loss"))[0].backward()
            optimizer.step()

        return call

    def extract(teacher: Teacher) -> Call:
        teacher.to(device())
        return lambda: teacher.extract(data["inputs"], data["data_samples"], paths)

    def train_teacher() -> None:
        with torch.no_grad():
            distiller.teacher.model(**data, mode="loss")

    return {
        **{row: extract(Teacher(**model.teacher, **options)) for row, options in CHEAPER.items()},
        "student alone": train(distiller.student),
        "teacher to its tap": extract(distiller.teacher),
        "distillation step": train(distiller),
        "distillation step (plain)": train(distiller, fused=False),
        "teacher, training forward": train_teacher,
    }


def main() -> None:
    options = read_options(
        __doc__,
        repeats=5,
        threads=torch.get_num_threads(),
        batch=dict(type=int, default=2),
        size=dict(type=int, nargs=2, default=(256, 512), metavar=("HEIGHT", "WIDTH")),
    )
    os.chdir(ROOT)
    rows = {}
    for pair, name in PAIRS.items():
        with tempfile.TemporaryDirectory() as folder:
            calls = pair_rows(name, tuple(options.size), options.batch, Path(folder))
            rows[pair] = interleave(calls, options.repeats, warm=1)
    save("iteration_speed", rows)


if __name__ == "__main__":
    sys.exit(main())
