"""Cityscapes, DeepLabV3-R101 to R18: CWD on the logits, tau 4 (arXiv 2011.13256).

The weight is a ratio to the task's gradient.
"""
_base_ = [
    'mmseg::deeplabv3/deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024.py',
    '../_base_/teachers/deeplabv3_r101_cityscapes.py',
    '../_base_/distill/logits_segmenter.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}},
    terms=dict(
        loss_logit=dict(_base_.logit_term, loss=dict(type='freqkd.CWDLoss', tau=4.0))))
