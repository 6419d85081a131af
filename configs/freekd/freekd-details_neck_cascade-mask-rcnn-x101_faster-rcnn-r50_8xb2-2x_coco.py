"""COCO, Cascade Mask R-CNN-X101-64x4d to Faster R-CNN-R50.

Details of the wavelet transform on the FPN, MSE without its low band. Needs no stage 1.
"""
_base_ = [
    '../baselines/faster-rcnn_r50_8xb2-2x_coco.py',
    '../_base_/teachers/cascade-mask-rcnn_x101_coco.py',
    '../_base_/distill/neck_256.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}},
    terms=dict(
        loss_feature=dict(
            _base_.neck_term, loss=dict(type='freqkd.FreeKDLoss', preset='details'),
            weight=dict(ratio=8.0, iters=200))))
