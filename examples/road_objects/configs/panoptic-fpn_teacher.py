"""A wide Panoptic FPN-R18 for the road scenes: obstacles are things, the other classes are stuff."""
_base_ = ['mask-rcnn_teacher.py']
model = dict(
    type='PanopticFPN',
    semantic_head=dict(
        type='PanopticFPNHead',
        num_things_classes=1,
        num_stuff_classes=4,
        in_channels=96,
        inner_channels=64,
        start_level=0,
        end_level=4,
        norm_cfg=dict(type='GN', num_groups=8, requires_grad=True),
        loss_seg=dict(type='CrossEntropyLoss', ignore_index=255, loss_weight=0.5)),
    panoptic_fusion_head=dict(type='HeuristicFusionHead', num_things_classes=1, num_stuff_classes=4),
    test_cfg=dict(
        rcnn=dict(score_thr=0.6, nms=dict(type='nms', iou_threshold=0.5, class_agnostic=True)),
        panoptic=dict(mask_overlap=0.5, stuff_area_limit=64)))
# mmdet's panoptic metric needs the package panopticapi and files in COCO's panoptic format.
val_dataloader = val_cfg = val_evaluator = test_dataloader = test_cfg = test_evaluator = None
