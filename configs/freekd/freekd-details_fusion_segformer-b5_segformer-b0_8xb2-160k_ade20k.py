"""ADE20K, SegFormer-B5 to B0: details of the wavelet transform on the fused map of the head, MSE without its low band.

Needs no stage 1.
"""
_base_ = [
    'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
    '../_base_/teachers/segformer_b5_ade20k.py',
    '../_base_/distill/fusion_segformer.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}},
    terms=dict(
        loss_feature=dict(
            _base_.feature_term, loss=dict(type='freqkd.FreeKDLoss', preset='details'),
            weight=dict(ratio=2.0, iters=200))))
