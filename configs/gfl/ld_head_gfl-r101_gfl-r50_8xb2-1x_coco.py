"""COCO, GFL-R101 to R50 1x: LD with the valuable localisation region and class KD (arXiv 2102.12252), the released factors."""
_base_ = ['./gfl_r50_8xb2-1x_coco.py']
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type='freqkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/gfl/gfl_r101_fpn_mstrain_2x_coco/'
        'gfl_r101_fpn_mstrain_2x_coco_20200629_200126-dd12f847.pth'),
    terms=dict(
        loss_head=dict(
            type='freqkd.DistillTerm',
            student='neck',
            adapter=dict(type='freqkd.LDTargets'),
            loss=dict(type='freqkd.LDLoss'),
            weight=1.0)))
