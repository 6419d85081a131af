"""COCO, RTMDet-s to tiny: quality focal KD on the class maps, the first three outputs of the head."""
_base_ = [
    'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    '../_base_/teachers/rtmdet_s_coco.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}},
    terms=dict(
        loss_head=dict(
            type='freqkd.DistillTerm', student_tap='bbox_head', student_levels=(0, 1, 2),
            adapter=dict(type='freqkd.DenseLogits'),
            loss=dict(type='freqkd.LogitLoss', divergence='quality_focal', activation='sigmoid'), weight=dict(ratio=0.5, iters=200))))
