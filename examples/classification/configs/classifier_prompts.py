"""Stage 1: frequency prompts on the teacher's two maps, trained by the teacher's own loss."""
_base_ = ['classifier_teacher.py']
model = dict(
    _delete_=True,
    type='freqkd.PromptTuner',
    teacher=dict(
        config='examples/classification/configs/classifier_teacher.py',
        checkpoint='work_dirs/classifier_teacher/epoch_8.pth'),
    tap='backbone',
    prompts=dict(channels=[64, 128], num_levels=2, depth=2, num_prompts=2, preset='paper'))
train_cfg = dict(max_epochs=1, val_interval=1)
optim_wrapper = dict(_delete_=True, type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-2, weight_decay=1e-3))
custom_hooks = [dict(type='freqkd.PromptFileHook')]
