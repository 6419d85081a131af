"""A wide classifier of blood cells, on crops of the boxes in data/samples/blood_cells."""
default_scope = 'mmengine'
custom_imports = dict(
    imports=['freqkd.registry', 'examples.classification.classifier', 'examples.classification.crops'],
    allow_failed_imports=False)
data_root = 'data/samples/blood_cells/'
metainfo = dict(classes=('RBC', 'WBC', 'Platelets'))
model = dict(
    type='PlainClassifier',
    width=32,
    num_classes=3,
    data_preprocessor=dict(
        type='ImgDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True))
train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='BoxCrops',
        data_root=data_root,
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='images/train/'),
        metainfo=metainfo,
        pipeline=[dict(type='LoadCrop', size=64), dict(type='FlipCrop'), dict(type='PackCrop')]))
val_dataloader = dict(
    batch_size=32,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='BoxCrops',
        data_root=data_root,
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='images/val/'),
        metainfo=metainfo,
        test_mode=True,
        pipeline=[dict(type='LoadCrop', size=64), dict(type='PackCrop')]))
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(type='MeanRecall')
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=8, val_interval=8)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05))
default_hooks = dict(checkpoint=dict(type='freqkd.CheckpointHook', interval=1, max_keep_ckpts=1))
randomness = dict(seed=0)
