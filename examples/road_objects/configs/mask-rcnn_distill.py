"""Stage 2: FreeKD and details on the FPN, KD on the classes of proposals, binary KD on their masks."""
_base_ = ['mask-rcnn_student.py']
align = dict(type='freqkd.ConvAlign', student_channels=32, teacher_channels=96, num_levels=4)
model = dict(
    _delete_=True,
    type='freqkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='examples/road_objects/configs/mask-rcnn_teacher.py',
        checkpoint='work_dirs/mask-rcnn_teacher/epoch_24.pth'),
    monitor=5,
    terms=dict(
        loss_freekd=dict(
            type='freqkd.DistillTerm',
            align=align,
            loss=dict(type='freqkd.FreeKDLoss', preset='paper'),
            prompts='work_dirs/mask-rcnn_prompts/prompts.pth',
            weight=dict(ratio=0.5, iters=20)),
        loss_details=dict(
            type='freqkd.DistillTerm',
            student_levels=(0, 1, 2, 3),
            align=align,
            loss=dict(type='freqkd.FreeKDLoss', preset='details'),
            weight=dict(ratio=0.5, iters=20)),
        loss_class=dict(
            type='freqkd.DistillTerm',
            student_tap='roi_head.bbox_head.fc_cls',
            adapter=dict(type='freqkd.ProposalLogits'),
            loss=dict(type='freqkd.LogitLoss', softening=dict(type='fixed', tau=1.0), divergence='kl'),
            weight=dict(ratio=0.5, iters=20)),
        loss_mask_kd=dict(
            type='freqkd.DistillTerm',
            adapter=dict(type='freqkd.MaskLogits'),
            loss=dict(type='freqkd.LogitLoss', divergence='binary_kl', activation='sigmoid'),
            weight=dict(ratio=0.5, iters=20))))
