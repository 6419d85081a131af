"""Prompt stages of SegFormer on Cityscapes, 8 GPUs x 1 crop of 1024x1024; a config adds the model."""
_base_ = [
    'mmseg::_base_/datasets/cityscapes_1024x1024.py',
    'mmseg::_base_/default_runtime.py',
    './schedules/prompts_2000i.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=500, max_keep_ckpts=1))
train_dataloader = dict(batch_size=1)
