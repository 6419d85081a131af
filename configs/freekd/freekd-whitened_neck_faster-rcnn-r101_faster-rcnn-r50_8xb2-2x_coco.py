"""COCO, Faster R-CNN-R101 to R50: details of the wavelet transform on the FPN, each band over what the teacher has in it."""
_base_ = [
    '../baselines/faster-rcnn_r50_8xb2-2x_coco.py',
    '../_base_/teachers/faster-rcnn_r101_coco.py',
    '../_base_/distill/neck_256.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}},
    terms=dict(
        loss_feature=dict(
            _base_.neck_term, loss=dict(type='freqkd.FreeKDLoss', preset='whitened'),
            weight=dict(ratio=8.0, iters=200))))
