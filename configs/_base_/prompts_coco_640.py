"""Prompt stages of RTMDet and YOLOX on COCO: their images are 640x640, padded with grey."""
_base_ = ['./prompts_coco.py']
resize = [
    dict(type='Resize', scale=(640, 640), keep_ratio=True),
    dict(type='Pad', size=(640, 640), pad_val=dict(img=(114, 114, 114))),
]
load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
train_dataloader = dict(
    dataset=dict(pipeline=[*load, *resize, dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')]))
test_pipeline = [
    *load, *resize,
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
