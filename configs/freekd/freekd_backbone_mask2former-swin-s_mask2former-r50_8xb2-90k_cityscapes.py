"""Stage 2 on Cityscapes: Mask2Former-Swin-S to R50, FreeKD on the four stages of the backbone.

Preset `paper`, the weight a ratio to the task's gradient.
"""
_base_ = [
    '../baselines/mask2former_r50_8xb2-90k_cityscapes.py',
    '../_base_/teachers/mask2former_swin-s_cityscapes.py',
    '../_base_/distill/backbone_r50_swin-s.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}},
    terms=dict(
        loss_freekd=dict(
            _base_.feature_term, loss=dict(type='freqkd.FreeKDLoss', preset='paper'),
            prompts='work_dirs/prompts_backbone_mask2former-swin-s_4xb2-2000i_cityscapes/prompts.pth')))
