"""Pairs of published networks, and three steps of training with the config that is written for a pair."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope

from freqkd.models.options import build_part
from freqkd.pairs.networks import SIDE, Network, image_size, invented_sample, read_network
from freqkd.pairs.new_config import new_config
from freqkd.utils.compat import read_config


@dataclass(frozen=True)
class Case:
    """A pair of the docs' table.

    Attributes:
        name: teacher to student.
        student: config of the student.
        teacher: config of the teacher.
        methods: given to `--method`.
        changes: of the student's model, where mmdet and mmseg have no config of a small one.
        side: height and width of the images of the three steps, where the networks take any.
    """

    name: str
    student: str
    teacher: str
    methods: tuple[str, ...]
    changes: Mapping[str, Any] = field(default_factory=dict)
    side: int = 128


def _r18(**neck: Any) -> dict[str, Any]:
    return dict(backbone=dict(depth=18), neck=dict(neck))


BOTH = ("details", "kd")
DET, SEG = "mmdet::", "mmseg::"
CITY = "4xb2-80k_cityscapes-512x1024.py"
PSP = f"{SEG}pspnet/pspnet_r101-d8_{CITY}"
DETR = "conditional_detr/conditional-detr_r50_8xb2-50e_coco.py"
DEFORMABLE = "deformable_detr/deformable-detr_r50_16xb2-50e_coco.py"
DINO = "dino/dino-4scale_r50_8xb2-12e_coco.py"
CASES = [
    Case("RetinaNet R101 to R50", f"{DET}retinanet/retinanet_r50_fpn_2x_coco.py",
         f"{DET}retinanet/retinanet_r101_fpn_2x_coco.py", BOTH),
    Case("FCOS R101 to R50", f"{DET}fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py",
         f"{DET}fcos/fcos_r101-caffe_fpn_gn-head-1x_coco.py", BOTH),
    Case("ATSS R101 to R50", f"{DET}atss/atss_r50_fpn_1x_coco.py", f"{DET}atss/atss_r101_fpn_1x_coco.py", BOTH),
    Case("GFL R101 to R50", f"{DET}gfl/gfl_r50_fpn_1x_coco.py", f"{DET}gfl/gfl_r101_fpn_ms-2x_coco.py", ("ld",)),
    Case("Faster R-CNN R101 to R50", f"{DET}faster_rcnn/faster-rcnn_r50_fpn_2x_coco.py",
         f"{DET}faster_rcnn/faster-rcnn_r101_fpn_2x_coco.py", BOTH),
    Case("Cascade R-CNN R101 to Faster R-CNN R50", f"{DET}faster_rcnn/faster-rcnn_r50_fpn_2x_coco.py",
         f"{DET}cascade_rcnn/cascade-rcnn_r101_fpn_20e_coco.py", BOTH),
    Case("Mask R-CNN R101 to R50", f"{DET}mask_rcnn/mask-rcnn_r50_fpn_2x_coco.py",
         f"{DET}mask_rcnn/mask-rcnn_r101_fpn_2x_coco.py", BOTH),
    Case("RepPoints R101 to R50", f"{DET}reppoints/reppoints-moment_r50_fpn-gn_head-gn_2x_coco.py",
         f"{DET}reppoints/reppoints-moment_r101_fpn-gn_head-gn_2x_coco.py", BOTH),
    Case("RTMDet s to tiny", f"{DET}rtmdet/rtmdet_tiny_8xb32-300e_coco.py", f"{DET}rtmdet/rtmdet_s_8xb32-300e_coco.py",
         BOTH),
    Case("YOLOX s to tiny", f"{DET}yolox/yolox_tiny_8xb8-300e_coco.py", f"{DET}yolox/yolox_s_8xb8-300e_coco.py", BOTH),
    Case("YOLOv3 Darknet-53 to MobileNetV2", f"{DET}yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py",
         f"{DET}yolo/yolov3_d53_8xb8-320-273e_coco.py", ("details",)),
    Case("Conditional DETR R50 to R18", DET + DETR, DET + DETR, BOTH, _r18(in_channels=[512])),
    Case("Deformable DETR R50 to R18", DET + DEFORMABLE, DET + DEFORMABLE, BOTH, _r18(in_channels=[128, 256, 512])),
    Case("DINO R50 to R18", DET + DINO, DET + DINO, BOTH, _r18(in_channels=[128, 256, 512]), 256),  # 900 positions
    Case("Mask R-CNN Swin-T to RetinaNet R18", f"{DET}retinanet/retinanet_r18_fpn_1x_coco.py",
         f"{DET}swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py", ("details",)),
    Case("RetinaNet R50 to SSD300", f"{DET}ssd/ssd300_coco.py", f"{DET}retinanet/retinanet_r50_fpn_2x_coco.py",
         ("details",)),
    Case("PSPNet R101 to R18", f"{SEG}pspnet/pspnet_r18-d8_{CITY}", PSP, BOTH),
    Case("DeepLabV3 R101 to R18", f"{SEG}deeplabv3/deeplabv3_r18-d8_{CITY}", f"{SEG}deeplabv3/deeplabv3_r101-d8_{CITY}",
         BOTH),
    Case("SegFormer B2 to B0", f"{SEG}segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py",
         f"{SEG}segformer/segformer_mit-b2_8xb2-160k_ade20k-512x512.py", BOTH),
    Case("UPerNet Swin-T to Semantic FPN R18", f"{SEG}sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py",
         f"{SEG}swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py", BOTH,
         _r18(in_channels=[64, 128, 256, 512])),
    Case("OCRNet HR48 to HR18", f"{SEG}ocrnet/ocrnet_hr18_{CITY}", f"{SEG}ocrnet/ocrnet_hr48_{CITY}", BOTH),
    Case("PSPNet R101 to BiSeNetV2", f"{SEG}bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py", PSP, BOTH),
    Case("PSPNet R101 to STDC1", f"{SEG}stdc/stdc1_4xb12-80k_cityscapes-512x1024.py", PSP, BOTH),
    Case("SETR ViT-L to PSPNet R18", f"{SEG}pspnet/pspnet_r18-d8_{CITY}",
         f"{SEG}setr/setr_vit-l_pup_8xb1-80k_cityscapes-768x768.py", BOTH),
    Case("Mask2Former R101 to R50", f"{SEG}mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024.py",
         f"{SEG}mask2former/mask2former_r101_8xb2-90k_cityscapes-512x1024.py", BOTH),
]  # fmt: skip


@dataclass
class Steps:
    """What three steps of training did.

    Attributes:
        model: of the config that was trained.
        losses: of each term, after each step.
        pulls: the norm of each term's gradient at its tap, after each step.
    """

    model: Config
    losses: dict[str, list[float]]
    pulls: dict[str, list[float]]

    @property
    def is_sound(self) -> bool:
        """Whether every term was finite, and pulled at the student in every step."""
        values = [*self.losses.values(), *self.pulls.values()]
        return bool(values) and all(math.isfinite(value) and value > 0 for found in values for value in found)


def describe_taps(model: Config) -> str:
    """Return the taps of a model's terms, "student <- teacher" where they differ, with the levels that are paired."""
    found = []
    for term in model.terms.values():
        sides = []
        for owner in ("student", "teacher"):
            tap = term.get(f"{owner}_tap") or term.student_tap
            levels = term.get(f"{owner}_levels") or term.get("student_levels")
            sides.append(f"`{tap}`" + (f" {', '.join(map(str, levels))}" if levels else ""))
        found.append(" <- ".join(dict.fromkeys(sides)))
    return "; ".join(dict.fromkeys(found))


def row_of(case: Case, folder: Path) -> str:
    """Return the row of the docs' table for a pair: three steps are trained, or what it needs is said."""
    start = f"| {case.name} | {', '.join(case.methods)}"
    try:
        steps = try_case(case, folder)
    except ValueError as error:
        return f"{start} | | no: {error} |"
    return f"{start} | {describe_taps(steps.model)} | {'yes' if steps.is_sound else 'no: a term does not pull'} |"


def write_random_weights(config: str, path: Path) -> Path:
    """Write a checkpoint of random weights of a config's network."""
    torch.manual_seed(0)
    torch.save(dict(state_dict=read_network(config, "teacher").model.state_dict()), path)
    return path


def small_student(case: Case, folder: Path) -> str:
    """Return the student's config, of a file where the pair changes it."""
    if not case.changes:
        return case.student
    path = folder / "small_student.py"
    path.write_text(f"_base_ = [{case.student!r}]\nmodel = {dict(case.changes)!r}\n")
    return str(path)


def without_downloads(config: Any) -> Any:
    """Return the config of a network without the weights that its backbone would fetch."""
    if isinstance(config, dict):
        fetched = config.get("type") == "Pretrained"
        return None if fetched else {k: None if k == "pretrained" else without_downloads(v) for k, v in config.items()}
    return [without_downloads(item) for item in config] if isinstance(config, list) else config


def three_steps(path: Path, student: Network, size: tuple[int, int] | None = None) -> Steps:
    """Train the distillation of a config for three steps, on two images with invented labels.

    Args:
        path: the config.
        student: its student, for packing images.
        size: height and width of the images; None: as for writing the config.
    """
    config = read_config(path)
    size = size or image_size(student.config)
    config.model.monitor = 1
    config.model.student = without_downloads(config.model.student)
    if student.task == "segmentation":  # else images are padded to the crops of the training
        config.model.student.data_preprocessor.size = size
    data = pseudo_collate([invented_sample(student, size, seed) for seed in range(2)])
    losses: dict[str, list[float]] = {}
    pulls: dict[str, list[float]] = {}
    with DefaultScope.overwrite_default_scope(student.scope), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = build_part("model", config.model).train()
        model.init_weights()
        MessageHub.get_current_instance().update_info("iter", 0)  # YOLOX's preprocessor asks for it
        optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-6))
        for _ in range(3):
            found = model.train_step(copy.deepcopy(data), optimizer)
            for name in config.model.terms:
                losses.setdefault(name, []).append(float(found[f"distill.{name}"]))
                scalars = MessageHub.get_current_instance().log_scalars
                pulls.setdefault(name, []).append(float(scalars[f"train/grad_norm/{name}"].current()))
    return Steps(config.model, losses, pulls)


def try_case(case: Case, folder: Path, methods: Sequence[str] = ()) -> Steps:
    """Write the config of a pair into a folder and train three steps of it; the teacher has random weights."""
    student = small_student(case, folder)
    weights = write_random_weights(case.teacher, folder / "teacher.pth")
    written = new_config(student, case.teacher, str(weights), folder / "configs", methods or case.methods)
    network = read_network(student, "student")
    wanted = image_size(network.config)
    steps = three_steps(written.distillation, network, (case.side, case.side) if wanted == (SIDE, SIDE) else wanted)
    weights.unlink()
    return steps


def write_table(page: Path) -> None:
    """Train all pairs, and replace their rows in the docs' page."""
    lines = page.read_text("utf-8").splitlines()
    for case in CASES:
        with TemporaryDirectory() as folder:
            row = row_of(case, Path(folder))
        print(row, flush=True)
        known = [place for place, line in enumerate(lines) if line.startswith(f"| {case.name} |")]
        lines[known[0]] = row
    page.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    write_table(Path(__file__).resolve().parents[1] / "docs/new-config.md")
