"""COCO, FCOS-R101 to R50.

The class term of CrossKD (arXiv 2306.11369), the student keeps 2 of 4 head convolutions, weight 0.4.
"""
_base_ = [
    '../baselines/fcos_r50_8xb2-2x_coco.py',
    '../_base_/teachers/fcos_r101_coco.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}},
    terms=dict(
        loss_head=dict(
            type='freqkd.DistillTerm', student_tap='neck',
            adapter=dict(type='freqkd.CrossHead', index=2, cls='conv_cls', reg=None),
            loss=dict(type='freqkd.LogitLoss', divergence='quality_focal', activation='sigmoid'), weight=0.4)))
