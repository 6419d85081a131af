"""Stage 2 on COCO: FCOS-R101 to R50, FreeKD x 5 and MSE x 10 on the FPN.

The weights are those of the released repository's config for this pair. Preset `official`, T = 6; neck and bbox_head
start from the teacher's weights.
"""
_base_ = [
    '../baselines/fcos_r50_8xb2-2x_coco.py',
    '../_base_/teachers/fcos_r101_coco.py',
    '../_base_/distill/neck_256.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}},
    inherit=('neck', 'bbox_head'),
    terms=dict(
        loss_freekd=dict(
            _base_.neck_term, loss=dict(type='freqkd.FreeKDLoss', preset='official'), weight=5.0,
            prompts='work_dirs/prompts_neck_fcos-r101_8xb2-2000i_coco/prompts.pth'),
        loss_mse=dict(_base_.neck_term, loss=dict(type='freqkd.MSELoss'), weight=10.0)))
