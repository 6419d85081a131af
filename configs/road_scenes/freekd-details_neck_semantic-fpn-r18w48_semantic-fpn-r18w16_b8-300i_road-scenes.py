"""The details of the wavelet transform alone, every coefficient alike, squared: MSE without its low band. Needs no stage 1."""
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
            loss=dict(type='freqkd.FreeKDLoss', channels=64, num_levels=4, preset='details'),
            weight=dict(share=2.0, iters=50))))
