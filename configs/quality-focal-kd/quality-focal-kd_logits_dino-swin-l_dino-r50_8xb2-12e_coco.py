"""COCO, DINO-Swin-L to R50: quality focal KD on the class logits of matched queries."""
_base_ = [
    '../baselines/dino_r50_8xb2-12e_coco.py',
    '../_base_/teachers/dino_swin-l_coco.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}},
    terms=dict(
        loss_head=dict(
            type='freqkd.DistillTerm', student_tap='bbox_head',
            adapter=dict(type='freqkd.QueryLogits'),
            loss=dict(type='freqkd.LogitLoss', divergence='quality_focal', activation='sigmoid'), weight=dict(ratio=0.5, iters=200))))
