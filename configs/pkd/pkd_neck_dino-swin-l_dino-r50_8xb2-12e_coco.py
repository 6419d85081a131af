"""COCO, DINO-Swin-L to R50: PKD (arXiv 2207.02039) on the neck, strides 8 to 64. The weight is a ratio.

None is published for this pair.
"""
_base_ = [
    '../baselines/dino_r50_8xb2-12e_coco.py',
    '../_base_/teachers/dino_swin-l_coco.py',
    '../_base_/distill/neck_256_teacher-one-level-finer.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}},
    terms=dict(
        loss_feature=dict(_base_.neck_term, align=None, loss=dict(type='freqkd.PKDLoss'), weight=dict(ratio=1.0, iters=200))))
