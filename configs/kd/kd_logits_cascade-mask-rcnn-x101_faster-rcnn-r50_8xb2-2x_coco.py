"""COCO, Cascade Mask R-CNN-X101-64x4d to Faster R-CNN-R50.

KD on the class scores of the student's proposals, tau 1, from the last stage of the cascade.
"""
_base_ = [
    '../baselines/faster-rcnn_r50_8xb2-2x_coco.py',
    '../_base_/teachers/cascade-mask-rcnn_x101_coco.py',
    '../_base_/distill/logits_proposals.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}},
    terms=dict(
        loss_logit=dict(
            _base_.logit_term, teacher_tap='roi_head.bbox_head.2.fc_cls',
            adapter=dict(type='freqkd.ProposalLogits', teacher_stage=2))))
