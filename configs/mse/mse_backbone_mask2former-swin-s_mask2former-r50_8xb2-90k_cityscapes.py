"""Cityscapes, Mask2Former-Swin-S to R50: MSE on the four stages of the backbone."""
_base_ = [
    '../baselines/mask2former_r50_8xb2-90k_cityscapes.py',
    '../_base_/teachers/mask2former_swin-s_cityscapes.py',
    '../_base_/distill/backbone_r50_swin-s.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}},
    terms=dict(
        loss_feature=dict(_base_.feature_term, loss=dict(type='freqkd.MSELoss'), weight=dict(ratio=2.0, iters=200))))
