"""Stage 2 on COCO: Cascade Mask R-CNN-X101-64x4d to Faster R-CNN-R50, FreeKD x 1 and MSE x 2 on the FPN.

The weights are those of the released repository's config for this pair (its other copy has 1). Preset `official`, T =
6; neck starts from the teacher's weights. That config adds smooth L1 x 1 on the boxes of the RoI head, which is left
out here.
"""
_base_ = [
    '../baselines/faster-rcnn_r50_8xb2-2x_coco.py',
    '../_base_/teachers/cascade-mask-rcnn_x101_coco.py',
    '../_base_/distill/neck_256.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}},
    inherit=('neck',),
    terms=dict(
        loss_freekd=dict(
            _base_.neck_term, loss=dict(type='freqkd.FreeKDLoss', preset='official'), weight=1.0,
            prompts='work_dirs/prompts_neck_cascade-mask-rcnn-x101_8xb2-2000i_coco/prompts.pth'),
        loss_mse=dict(_base_.neck_term, loss=dict(type='freqkd.MSELoss'), weight=2.0)))
