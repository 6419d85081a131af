"""Cityscapes, PSPNet-R101 to R18.

Details of the wavelet transform on the bottleneck before the classifier, each band over what the teacher has in it. Needs no
stage 1.
"""
_base_ = [
    'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py',
    '../_base_/teachers/pspnet_r101_cityscapes.py',
    '../_base_/distill/bottleneck_128-512.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}},
    terms=dict(
        loss_feature=dict(
            _base_.feature_term, loss=dict(type='freqkd.FreeKDLoss', preset='whitened'),
            weight=dict(ratio=2.0, iters=200))))
