"""Stage 1: frequency prompts on the teacher's FPN, levels P3 to P5: cells of 20 to 100 pixels leave P6 and P7 empty."""
_base_ = ['./retinanet_r18w16_b8-12e_blood-cells.py']
model = dict(
    _delete_=True,
    type='freqkd.PromptTuner',
    teacher=dict(
        config='configs/blood_cells/retinanet_r18w48_b8-36e_blood-cells.py',
        checkpoint='data/teachers/blood-cells_retinanet-r18w48.pth'),
    tap='neck',
    levels=(0, 1, 2),
    loss=dict(type='freqkd.FreeKDLoss', channels=64, num_levels=3, num_prompts=2, preset='paper'))
max_epochs = 4
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
optim_wrapper = dict(
    _delete_=True, type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-2, weight_decay=1e-3))
param_scheduler = [
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, begin=0, end=max_epochs, T_max=max_epochs,
         convert_to_iter_based=True),
]
custom_hooks = [dict(type='freqkd.PromptFileHook')]
