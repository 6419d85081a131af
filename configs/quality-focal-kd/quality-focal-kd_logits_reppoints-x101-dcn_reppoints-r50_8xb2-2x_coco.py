"""COCO, RepPoints-X101-DCN to R50: quality focal KD on the class maps."""
_base_ = [
    '../baselines/reppoints_r50_8xb2-2x_coco.py',
    '../_base_/teachers/reppoints_x101-dcn_coco.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}},
    terms=dict(
        loss_head=dict(
            type='freqkd.DistillTerm', student_tap='bbox_head.reppoints_cls_out',
            adapter=dict(type='freqkd.DenseLogits'),
            loss=dict(type='freqkd.LogitLoss', divergence='quality_focal', activation='sigmoid'), weight=dict(ratio=0.5, iters=200))))
