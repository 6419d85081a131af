"""Prompt stages on COCO, 8 GPUs x 2 images of 1333x800; a config adds the model."""
_base_ = [
    'mmdet::_base_/datasets/coco_detection.py',
    'mmdet::_base_/default_runtime.py',
    './schedules/prompts_2000i.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=500, max_keep_ckpts=1))
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(enable=False, base_batch_size=16)
