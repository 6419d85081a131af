"""Before a training: backbone and FPN learn the teacher's maps from images without labels.

A training with labels starts from its checkpoint: --cfg-options load_from=work_dirs/NAME_OF_THIS_CONFIG/epoch_4.pth.
"""
_base_ = [
    '../baselines/retinanet_r18w16_b8-12e_blood-cells.py',
    '../_base_/teachers/retinanet_r18w48_blood-cells.py',
    '../_base_/distill/neck_blood-cells.py',
]
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}}, own_losses=False,
    terms=dict(loss_feature=dict(_base_.neck_term, loss=dict(type='freqkd.MSELoss'), weight=1.0)))
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='freqkd.ImageFolder',
        data_root={{_base_.data_root}},
        data_prefix=dict(img='images/train/'),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(320, 240), keep_ratio=True),
            dict(type='RandomFlip', prob=0.75, direction=['horizontal', 'vertical', 'diagonal']),
            dict(type='PackDetInputs'),
        ]))
val_dataloader = val_cfg = val_evaluator = test_dataloader = test_cfg = test_evaluator = None
max_epochs = 4
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=True, begin=0, end=max_epochs, T_max=max_epochs,
         convert_to_iter_based=True),
]
find_unused_parameters = True  # several processes: the head is not trained
