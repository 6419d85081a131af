"""The student alone on COCO: mmdet's own config, its backbone by an https address instead of torchvision://."""
_base_ = ['mmdet::atss/atss_r50_fpn_1x_coco.py']
model = dict(
    backbone=dict(
        init_cfg=dict(type='Pretrained', checkpoint='https://download.pytorch.org/models/resnet50-0676ba61.pth')))
