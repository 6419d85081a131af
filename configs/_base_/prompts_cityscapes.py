"""Prompt stages on Cityscapes, 4 GPUs x 2 crops of 512x1024; a config adds the model."""
_base_ = [
    'mmseg::_base_/datasets/cityscapes.py',
    'mmseg::_base_/default_runtime.py',
    './schedules/prompts_2000i.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=500, max_keep_ckpts=1))
