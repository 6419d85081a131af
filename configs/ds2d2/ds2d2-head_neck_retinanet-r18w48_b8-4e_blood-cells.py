"""Stage 1 of DS2D2 (arXiv 2512.04413): a second head of the teacher, on the details of its FPN maps."""
_base_ = [
    '../baselines/retinanet_r18w16_b8-12e_blood-cells.py',
    '../_base_/teachers/retinanet_r18w48_blood-cells.py',
]
model = dict(_delete_=True, type='freqkd.BandHeadTuner', teacher={{_base_.teacher}}, depth=1)
max_epochs = 4
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, begin=0, end=max_epochs, T_max=max_epochs,
         convert_to_iter_based=True),
]
