"""Stage 1: frequency prompts on the teacher's FPN, levels P3 to P5: cells of 20 to 100 pixels leave P6 and P7 empty."""
_base_ = [
    '../baselines/retinanet_r18w16_b8-12e_blood-cells.py',
    '../_base_/teachers/retinanet_r18w48_blood-cells.py',
]
model = dict(
    _delete_=True,
    type='freqkd.PromptTuner',
    teacher={{_base_.teacher}},
    prompts=dict(channels=64, num_levels=3, num_prompts=2, preset='paper'),
    tap='neck',
    levels=(0, 1, 2))
max_epochs = 4
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
optim_wrapper = dict(
    _delete_=True, type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-2, weight_decay=1e-3))
param_scheduler = [
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, begin=0, end=max_epochs, T_max=max_epochs,
         convert_to_iter_based=True),
]
custom_hooks = [dict(type='freqkd.PromptFileHook')]
