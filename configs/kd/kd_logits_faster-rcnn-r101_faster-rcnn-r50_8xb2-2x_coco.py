"""COCO, Faster R-CNN-R101 to R50: KD on the class scores of the student's proposals, tau 1."""
_base_ = [
    '../baselines/faster-rcnn_r50_8xb2-2x_coco.py',
    '../_base_/teachers/faster-rcnn_r101_coco.py',
    '../_base_/distill/logits_proposals.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}},
    terms=dict(
        loss_logit={{_base_.logit_term}}))
