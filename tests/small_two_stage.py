"""Two-stage detectors of mmdet's own configs with masks, made small, and a batch for them."""

from __future__ import annotations

from typing import Any

import torch
from small_transformers import build, source

SOURCES = {
    "mask": "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
    "cascade": "mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py",
    "panoptic": "mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py",
}
SIZE = (64, 96)


def two_stage(kind: str, **mask_head: Any) -> Any:
    """A detector with 3 classes (panoptic: 3 things, 2 stuff), FPN of 16 channels, masks of 4 x 4 pixels from RoIs of 2 x 2."""
    model = source(SOURCES[kind])
    model.backbone.update(depth=18, base_channels=4, frozen_stages=-1, norm_eval=False, init_cfg=None)
    model.neck.update(in_channels=[4, 8, 16, 32], out_channels=16)
    model.rpn_head.update(in_channels=16, feat_channels=16)
    model.train_cfg.rpn_proposal.update(nms_pre=40, max_per_img=40)
    roi = model.roi_head
    for part in _each(roi.bbox_head):
        part.update(in_channels=16, fc_out_channels=16, roi_feat_size=2, num_classes=3)
    for part in _each(roi.mask_head):
        part.update(num_convs=1, in_channels=16, conv_out_channels=16, num_classes=3, **mask_head)
    for extractor in (roi.bbox_roi_extractor, roi.mask_roi_extractor):
        extractor.out_channels = 16
        extractor.roi_layer.output_size = 2
    for part in _each(model.train_cfg.rcnn):
        part.sampler.num = 16
        part.mask_size = 4
    if kind == "panoptic":
        model.semantic_head.update(num_things_classes=3, num_stuff_classes=2, in_channels=16, inner_channels=16)
        model.semantic_head.norm_cfg.num_groups = 4
        model.panoptic_fusion_head.update(num_things_classes=3, num_stuff_classes=2)
    return model


def _each(parts: Any) -> list[Any]:
    return parts if isinstance(parts, list) else [parts]


def held(config: Any, folder: Any) -> dict[str, Any]:
    """A teacher of this config with weights of its own, on disk."""
    torch.manual_seed(1)
    torch.save(dict(state_dict=build(config).state_dict()), folder / "teacher.pth")
    return dict(config=dict(model=config, default_scope="mmdet"), checkpoint=str(folder / "teacher.pth"))


def masked_batch(boxes: int = 2) -> tuple[torch.Tensor, list[Any]]:
    """Two images of 64 x 96 with up to two masked objects each, and a label for every pixel: 0 to 4, or 255."""
    import numpy as np
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData, PixelData

    places = torch.tensor([[4.0, 6.0, 40.0, 50.0], [50.0, 10.0, 90.0, 60.0]])[:boxes]
    masks = np.zeros((boxes, *SIZE), dtype=np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, places.int().tolist()):
        mask[top : (top + bottom) // 2, left:right] = 1
    meta = dict(img_shape=SIZE, ori_shape=SIZE, pad_shape=SIZE, batch_input_shape=SIZE, scale_factor=(1, 1))
    labels = (torch.arange(SIZE[0]) // 8 % 5)[None, :, None].repeat(
        1, 1, SIZE[1]
    )  # constant over cells of 4 x 4 pixels
    labels[:, :, :16] = 255
    samples = [DetDataSample(metainfo=meta) for _ in range(2)]
    for sample in samples:
        truth = InstanceData(bboxes=places, labels=torch.tensor([0, 2])[:boxes], masks=BitmapMasks(masks, *SIZE))
        sample.gt_instances = truth
        sample.ignored_instances = InstanceData(bboxes=places[:0], labels=torch.zeros(0, dtype=torch.long))
        sample.gt_sem_seg = PixelData(sem_seg=labels)
    torch.manual_seed(2)
    return torch.randn(2, 3, *SIZE), samples
