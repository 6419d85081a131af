"""COCO, YOLOX-s to tiny: binary KD on the objectness; the weight is a ratio at the neck."""
_base_ = [
    'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py',
    '../_base_/teachers/yolox_s_coco.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}},
    terms=dict(
        loss_head=dict(
            type='freqkd.DistillTerm', student_tap='neck',
            adapter=dict(type='freqkd.YOLOXLogits'),
            loss=dict(type='freqkd.LogitLoss', divergence='binary_kl', activation='sigmoid'), weight=dict(ratio=0.5, iters=200))))
