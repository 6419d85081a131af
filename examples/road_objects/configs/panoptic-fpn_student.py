"""A narrow Panoptic FPN-R18, a third of the teacher's width."""
_base_ = ['panoptic-fpn_teacher.py']
model = dict(
    backbone=dict(base_channels=16),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=32),
    rpn_head=dict(in_channels=32, feat_channels=32),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=32),
        bbox_head=dict(in_channels=32),
        mask_roi_extractor=dict(out_channels=32),
        mask_head=dict(in_channels=32, conv_out_channels=32)),
    semantic_head=dict(in_channels=32, inner_channels=32))
max_epochs = 12
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
