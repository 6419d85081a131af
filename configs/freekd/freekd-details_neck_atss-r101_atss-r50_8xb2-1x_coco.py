"""COCO, ATSS-R101 to R50: details of the wavelet transform on the FPN, MSE without its low band. Needs no stage 1."""
_base_ = [
    '../baselines/atss_r50_8xb2-1x_coco.py',
    '../_base_/teachers/atss_r101_coco.py',
    '../_base_/distill/neck_256.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}},
    terms=dict(
        loss_feature=dict(
            _base_.neck_term, loss=dict(type='freqkd.FreeKDLoss', preset='details'),
            weight=dict(ratio=8.0, iters=200))))
