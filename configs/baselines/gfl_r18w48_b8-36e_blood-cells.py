"""Its teacher: GFL-R18 of base width 48, FPN 64. Not shipped; train it: python tools/train.py with this config."""
_base_ = ['./gfl_r18w16_b8-12e_blood-cells.py']
model = dict(
    backbone=dict(base_channels=48),
    neck=dict(in_channels=[48, 96, 192, 384], out_channels=64),
    bbox_head=dict(in_channels=64, feat_channels=64))
max_epochs = 36
train_cfg = dict(max_epochs=max_epochs, val_interval=6)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=True, begin=0, end=max_epochs, T_max=max_epochs,
         convert_to_iter_based=True),
]
