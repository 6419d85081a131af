"""Stage 1 on Cityscapes: frequency prompts on the bottleneck of PSPNet-R101. 4 GPUs x 2 crops of 512x1024."""
_base_ = [
    'mmseg::pspnet/pspnet_r101-d8_4xb2-80k_cityscapes-512x1024.py',
    '../_base_/teachers/pspnet_r101_cityscapes.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type='freqkd.PromptTuner',
    teacher={{_base_.teacher}},
    prompts=dict(channels=512, num_levels=1, num_prompts=2, preset='paper'),
    tap='decode_head.bottleneck')
max_iters = 2000
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
optim_wrapper = dict(
    _delete_=True, type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-2, weight_decay=1e-3))
param_scheduler = [
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=False, begin=0, end=max_iters, T_max=max_iters),
]
default_hooks = dict(checkpoint=dict(interval=500, max_keep_ckpts=1))
custom_hooks = [dict(type='freqkd.PromptFileHook')]
