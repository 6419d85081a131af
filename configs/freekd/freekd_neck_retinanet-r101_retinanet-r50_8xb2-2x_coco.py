"""Stage 2 on COCO: RetinaNet-R101 to R50 with the released recipe's weights, FreeKD x 1 + MSE x 5 on the FPN.

Preset `official`, T = 6. The released config adds smooth L1 x 1 on the regression output, which is left out here.
"""
_base_ = [
    '../baselines/retinanet_r50_8xb2-2x_coco.py',
    '../_base_/teachers/retinanet_r101_coco.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}},
    terms=dict(
        loss_freekd=dict(
            type='freqkd.DistillTerm',
            student_tap='neck',
            align=dict(type='freqkd.ConvAlign', student_channels=256, teacher_channels=256, num_levels=5),
            loss=dict(type='freqkd.FreeKDLoss', preset='official'),
            prompts='work_dirs/prompts_neck_retinanet-r101_8xb2-2000i_coco/prompts.pth',
            weight=1.0),
        loss_mse=dict(
            type='freqkd.DistillTerm',
            student_tap='neck',
            align=dict(type='freqkd.ConvAlign', student_channels=256, teacher_channels=256, num_levels=5),
            loss=dict(type='freqkd.MSELoss'),
            weight=5.0)))
