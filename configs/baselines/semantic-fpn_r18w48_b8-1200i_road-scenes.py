"""The teacher: Semantic FPN-R18 of base width 48, FPN 64."""
_base_ = ['./semantic-fpn_r18w16_b8-300i_road-scenes.py']
model = dict(
    backbone=dict(base_channels=48),
    neck=dict(in_channels=[48, 96, 192, 384], out_channels=64),
    decode_head=dict(in_channels=[64, 64, 64, 64], channels=64))
max_iters = 1200
train_cfg = dict(max_iters=max_iters, val_interval=300)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=0, end=max_iters, T_max=max_iters),
]
