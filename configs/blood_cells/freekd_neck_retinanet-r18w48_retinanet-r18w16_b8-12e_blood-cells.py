"""Stage 2: FreeKD on the FPN, levels P3 to P5, with the prompts of stage 1. Preset `paper`.

The weight is a share of the task's gradient, as strong as the task. Every level of the pyramid counts alike, so with P6 and P7,
which hold 20 and 6 positions and no cell, most of that share would go to them.
"""
_base_ = ['./retinanet_r18w16_b8-12e_blood-cells.py']
model = dict(
    _delete_=True,
    type='freqkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='configs/blood_cells/retinanet_r18w48_b8-36e_blood-cells.py',
        checkpoint='data/teachers/blood-cells_retinanet-r18w48.pth'),
    monitor=20,
    terms=dict(
        loss_freekd=dict(
            type='freqkd.DistillTerm',
            student='neck',
            levels=(0, 1, 2),
            align=dict(type='freqkd.ConvAlign', student_channels=32, teacher_channels=64, num_levels=3),
            loss=dict(type='freqkd.FreeKDLoss', channels=64, num_levels=3, num_prompts=2, preset='paper'),
            prompts='work_dirs/prompts_neck_retinanet-r18w48_b8-4e_blood-cells/prompts.pth',
            weight=dict(share=1.0, iters=50))))
