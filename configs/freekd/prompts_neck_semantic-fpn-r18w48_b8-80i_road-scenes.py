"""Stage 1: frequency prompts on the teacher's FPN."""
_base_ = [
    '../baselines/semantic-fpn_r18w16_b8-300i_road-scenes.py',
    '../_base_/teachers/semantic-fpn_r18w48_road-scenes.py',
]
model = dict(
    _delete_=True,
    type='freqkd.PromptTuner',
    teacher={{_base_.teacher}},
    prompts=dict(channels=64, num_levels=4, num_prompts=2, preset='paper'),
    tap='neck')
max_iters = 80
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
optim_wrapper = dict(
    _delete_=True, type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-2, weight_decay=1e-3))
param_scheduler = [
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=False, begin=0, end=max_iters, T_max=max_iters),
]
custom_hooks = [dict(type='freqkd.PromptFileHook')]
