"""Cityscapes, Mask2Former-Swin-S to R50: PKD (arXiv 2207.02039) on the four stages of the backbone. The weight is a ratio.

None is published for this pair.
"""
_base_ = [
    '../baselines/mask2former_r50_8xb2-90k_cityscapes.py',
    '../_base_/teachers/mask2former_swin-s_cityscapes.py',
    '../_base_/distill/backbone_r50_swin-s.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}},
    terms=dict(
        loss_feature=dict(_base_.feature_term, loss=dict(type='freqkd.PKDLoss'), weight=dict(ratio=1.0, iters=200))))
