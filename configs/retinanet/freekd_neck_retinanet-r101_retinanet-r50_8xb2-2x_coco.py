"""Stage 2 on COCO: RetinaNet-R101 to R50 with the released recipe's weights, FreeKD x 1 + MSE x 5 on the FPN.

Preset `official`, T = 6. The released config adds smooth L1 x 1 on the regression output, which is left out here.
"""
_base_ = ['./retinanet_r50_8xb2-2x_coco.py']
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
distill_align = dict(type='freqkd.ConvAlign', student_channels=256, teacher_channels=256, num_levels=5)
model = dict(
    _delete_=True,
    type='freqkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::retinanet/retinanet_r101_fpn_2x_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_r101_fpn_2x_coco/'
        'retinanet_r101_fpn_2x_coco_20200131-5560aee8.pth'),
    terms=dict(
        loss_freekd=dict(
            type='freqkd.DistillTerm',
            student='neck',
            align=distill_align,
            loss=dict(type='freqkd.FreeKDLoss', channels=256, num_levels=5, num_prompts=6, preset='official'),
            prompts='work_dirs/prompts_neck_retinanet-r101_8xb2-2000i_coco/prompts.pth',
            weight=1.0),
        loss_mse=dict(
            type='freqkd.DistillTerm',
            student='neck',
            align=distill_align,
            loss=dict(type='freqkd.MSELoss'),
            weight=5.0)))
