"""COCO, RetinaNet-X101-64x4d to R50.

PKD (arXiv 2207.02039) on the first four levels of the FPN, with the weight of mmrazor's config.
"""
_base_ = [
    '../baselines/retinanet_r50_8xb2-2x_coco.py',
    '../_base_/teachers/retinanet_x101_coco.py',
    '../_base_/distill/neck_256.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}},
    terms=dict(
        loss_feature=dict(
            _base_.neck_term, align=None, student_levels=(0, 1, 2, 3), loss=dict(type='freqkd.PKDLoss'),
            weight=10.0)))
