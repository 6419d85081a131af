"""The student alone on COCO: mmdet's own config with clipped gradients, as the distilled one has."""
_base_ = ['mmdet::retinanet/retinanet_r50_fpn_2x_coco.py']
# An https address: the torchvision:// of the base cannot be read where torchvision is not installed.
model = dict(
    backbone=dict(
        init_cfg=dict(
            type='Pretrained', checkpoint='https://download.pytorch.org/models/resnet50-0676ba61.pth')))
optim_wrapper = dict(optimizer=dict(lr=0.02), clip_grad=dict(max_norm=35, norm_type=2))
auto_scale_lr = dict(_delete_=True, enable=False, base_batch_size=16)
