"""Stage 1 on COCO: frequency prompts on the FPN of RetinaNet-R101. 8 GPUs x 2 images, 2000 iterations.

Token sets and T as in the released program. One difference, `normalize=True`: its plain sum of six masks would start at
gain 3.
"""
_base_ = [
    'mmdet::retinanet/retinanet_r101_fpn_2x_coco.py',
    '../_base_/teachers/retinanet_r101_coco.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type='freqkd.PromptTuner',
    teacher={{_base_.teacher}},
    prompts=dict(channels=256, num_levels=5, num_prompts=6, preset='official', normalize=True),
    tap='neck')
max_iters = 2000
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)
optim_wrapper = dict(
    _delete_=True, type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-2, weight_decay=1e-3))
param_scheduler = [
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=False, begin=0, end=max_iters, T_max=max_iters),
]
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=500, max_keep_ckpts=1))
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(_delete_=True, enable=False, base_batch_size=16)
custom_hooks = [dict(type='freqkd.PromptFileHook')]
