"""The student alone: Semantic FPN-R18 of base width 16, FPN 32."""
_base_ = [
    '../_base_/models/semantic_fpn_r18.py',
    '../_base_/datasets/facades_segmentation.py',
    '../_base_/schedules/adamw_iters.py',
    '../_base_/runtime_mmseg.py',
]
model = dict(data_preprocessor=dict(size=(256, 256)), decode_head=dict(num_classes=11))
max_iters = 600
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=0, end=max_iters, T_max=max_iters),
]
