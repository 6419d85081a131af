"""Stage 2: FreeKD on the FPN, with the prompts of stage 1. Preset `paper`; weights are shares of the task's gradient."""
_base_ = ['./semantic-fpn_r18w16_b8-300i_road-scenes.py']
model = dict(
    _delete_=True,
    type='freqkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='configs/road_scenes/semantic-fpn_r18w48_b8-1200i_road-scenes.py',
        checkpoint='data/teachers/road-scenes_semantic-fpn-r18w48.pth'),
    monitor=20,
    terms=dict(
        loss_freekd=dict(
            type='freqkd.DistillTerm',
            student='neck',
            align=dict(type='freqkd.ConvAlign', student_channels=32, teacher_channels=64, num_levels=4),
            loss=dict(type='freqkd.FreeKDLoss', channels=64, num_levels=4, num_prompts=2, preset='paper'),
            prompts='work_dirs/prompts_neck_semantic-fpn-r18w48_b8-80i_road-scenes/prompts.pth',
            weight=dict(share=0.5, iters=50))))
