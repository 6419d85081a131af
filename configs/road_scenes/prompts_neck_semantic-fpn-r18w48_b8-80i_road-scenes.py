"""Stage 1: frequency prompts on the teacher's FPN."""
_base_ = ['./semantic-fpn_r18w16_b8-300i_road-scenes.py']
model = dict(
    _delete_=True,
    type='freqkd.PromptTuner',
    teacher=dict(
        config='configs/road_scenes/semantic-fpn_r18w48_b8-1200i_road-scenes.py',
        checkpoint='data/teachers/road-scenes_semantic-fpn-r18w48.pth'),
    tap='neck',
    loss=dict(type='freqkd.FreeKDLoss', channels=64, num_levels=4, num_prompts=2, preset='paper'))
max_iters = 80
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
optim_wrapper = dict(
    _delete_=True, type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-2, weight_decay=1e-3))
param_scheduler = [
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=False, begin=0, end=max_iters, T_max=max_iters),
]
custom_hooks = [dict(type='freqkd.PromptFileHook')]
