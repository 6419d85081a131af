"""COCO, Mask R-CNN-R101 to R50: binary KD on the masks of the student's positive proposals; the weight is a ratio at the neck."""
_base_ = [
    '../baselines/mask-rcnn_r50_8xb2-2x_coco.py',
    '../_base_/teachers/mask-rcnn_r101_coco.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}},
    terms=dict(
        loss_head=dict(
            type='freqkd.DistillTerm', student_tap='neck',
            adapter=dict(type='freqkd.MaskLogits'),
            loss=dict(type='freqkd.LogitLoss', divergence='binary_kl', activation='sigmoid'), weight=dict(ratio=0.5, iters=200))))
