"""Stage 1: frequency prompts on the FPN of the Mask R-CNN, levels P2 to P5."""
_base_ = ['mask-rcnn_teacher.py']
model = dict(
    _delete_=True,
    type='freqkd.PromptTuner',
    teacher=dict(
        config='examples/road_objects/configs/mask-rcnn_teacher.py',
        checkpoint='work_dirs/mask-rcnn_teacher/epoch_24.pth'),
    levels=(0, 1, 2, 3),
    prompts=dict(channels=96, num_levels=4, num_prompts=2, preset='paper'))
max_epochs = 4
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
optim_wrapper = dict(_delete_=True, type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-2, weight_decay=1e-3))
param_scheduler = []
custom_hooks = [dict(type='freqkd.PromptFileHook')]
