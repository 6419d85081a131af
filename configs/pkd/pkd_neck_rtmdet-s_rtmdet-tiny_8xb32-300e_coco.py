"""COCO, RTMDet-s to tiny: PKD (arXiv 2207.02039) on the neck. The weight is a ratio: none is published for this pair."""
_base_ = [
    'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    '../_base_/teachers/rtmdet_s_coco.py',
    '../_base_/distill/neck_96-128.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}},
    terms=dict(
        loss_feature=dict(_base_.neck_term, loss=dict(type='freqkd.PKDLoss'), weight=dict(ratio=1.0, iters=200))))
