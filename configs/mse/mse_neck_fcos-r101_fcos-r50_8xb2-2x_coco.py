"""COCO, FCOS-R101 to R50: MSE on the FPN."""
_base_ = [
    '../baselines/fcos_r50_8xb2-2x_coco.py',
    '../_base_/teachers/fcos_r101_coco.py',
    '../_base_/distill/neck_256.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}},
    terms=dict(
        loss_feature=dict(_base_.neck_term, loss=dict(type='freqkd.MSELoss'), weight=dict(ratio=8.0, iters=200))))
