"""COCO, GFL-R101 to R50 1x: LD with the valuable localisation region and class KD (arXiv 2102.12252), the released factors."""
_base_ = [
    '../baselines/gfl_r50_8xb2-1x_coco.py',
    '../_base_/teachers/gfl_r101_coco.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}},
    terms=dict(
        loss_head=dict(
            type='freqkd.DistillTerm',
            student_tap='neck',
            adapter=dict(type='freqkd.LDTargets'),
            loss=dict(type='freqkd.LDLoss'),
            weight=1.0)))
