"""Cityscapes, Mask2Former-Swin-S to R50.

KD on the class scores of positions that queries' classes and masks give together, tau 1.
"""
_base_ = [
    '../baselines/mask2former_r50_8xb2-90k_cityscapes.py',
    '../_base_/teachers/mask2former_swin-s_cityscapes.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}},
    terms=dict(
        loss_head=dict(
            type='freqkd.DistillTerm', student_tap='decode_head',
            adapter=dict(type='freqkd.QueryMaskLogits'),
            loss=dict(type='freqkd.LogitLoss', softening=dict(type='fixed', tau=1.0), divergence='kl'), weight=dict(ratio=0.5, iters=200))))
