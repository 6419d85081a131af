"""Stage 2: FreeKD and the details of the wavelet transform on the maps, KD on the logits."""
_base_ = ['classifier_student.py']
align = dict(type='freqkd.ConvAlign', student_channels=[16, 32], teacher_channels=[64, 128], num_levels=2)
model = dict(
    _delete_=True,
    type='freqkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='examples/classification/configs/classifier_teacher.py',
        checkpoint='work_dirs/classifier_teacher/epoch_8.pth'),
    monitor=5,
    terms=dict(
        loss_freekd=dict(
            type='freqkd.DistillTerm',
            align=align,
            loss=dict(type='freqkd.FreeKDLoss', preset='paper'),
            prompts='work_dirs/classifier_prompts/prompts.pth',
            weight=dict(ratio=0.5, iters=20, hold=True, interval=10)),
        loss_details=dict(
            type='freqkd.DistillTerm',
            student_tap='backbone',
            align=align,
            loss=dict(type='freqkd.FreeKDLoss', preset='details', depth=2),
            weight=dict(ratio=0.5, iters=20)),
        loss_kd=dict(
            type='freqkd.DistillTerm',
            student_tap='head',
            loss=dict(type='freqkd.LogitLoss', softening=dict(type='fixed', tau=2.0), divergence='kl'),
            weight=dict(ratio=0.5, iters=20))))
