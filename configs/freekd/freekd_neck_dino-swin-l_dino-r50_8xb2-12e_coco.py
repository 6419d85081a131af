"""Stage 2 on COCO: DINO-Swin-L to R50, FreeKD on the neck, strides 8 to 64.

Preset `paper`, the weight a ratio to the task's gradient.
"""
_base_ = [
    '../baselines/dino_r50_8xb2-12e_coco.py',
    '../_base_/teachers/dino_swin-l_coco.py',
    '../_base_/distill/neck_256_teacher-one-level-finer.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}},
    terms=dict(
        loss_freekd=dict(
            _base_.neck_term, loss=dict(type='freqkd.FreeKDLoss', preset='paper'),
            prompts='work_dirs/prompts_neck_dino-swin-l_8xb2-2000i_coco/prompts.pth')))
