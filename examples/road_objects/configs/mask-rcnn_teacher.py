"""A wide Mask R-CNN-R18 for the obstacles of the road scenes."""
_base_ = ['mmdet::_base_/models/mask-rcnn_r50_fpn.py', 'mmdet::_base_/default_runtime.py']
custom_imports = dict(
    imports=['freqkd.registry', 'examples.road_objects.road_objects'], allow_failed_imports=False)
data_root = 'data/samples/road_scenes/'
batch_size = 4
model = dict(
    data_preprocessor=dict(pad_seg=True, seg_pad_value=255),
    backbone=dict(depth=18, base_channels=48, frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[48, 96, 192, 384], out_channels=96),
    rpn_head=dict(in_channels=96, feat_channels=96, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=96),
        bbox_head=dict(in_channels=96, fc_out_channels=128, num_classes=1),
        mask_roi_extractor=dict(out_channels=96),
        mask_head=dict(num_convs=2, in_channels=96, conv_out_channels=96, num_classes=1)),
    train_cfg=dict(rpn_proposal=dict(nms_pre=500, max_per_img=200), rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)))
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='RoadObjects',
        data_root=data_root,
        data_prefix=dict(img='img_dir/train/', seg='ann_dir/train/'),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True, with_seg=True),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackDetInputs'),
        ]))
val_dataloader = dict(
    batch_size=batch_size,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='RoadObjects',
        data_root=data_root,
        data_prefix=dict(img='img_dir/val/', seg='ann_dir/val/'),
        test_mode=True,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(320, 240), keep_ratio=True),
            dict(
                type='PackDetInputs',
                meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'instances')),
        ]))
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(type='CocoMetric', metric=['bbox', 'segm'])
max_epochs = 24
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=max_epochs)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=5e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=35, norm_type=2))
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=30)]
default_hooks = dict(checkpoint=dict(type='freqkd.CheckpointHook', interval=1, max_keep_ckpts=1))
randomness = dict(seed=0)
