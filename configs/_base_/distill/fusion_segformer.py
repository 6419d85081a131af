"""A term on the fused map of SegFormer's head, 256 channels in every size; a config adds the loss."""
feature_term = dict(
    type='freqkd.DistillTerm',
    student_tap='decode_head.fusion_conv',
    align=dict(type='freqkd.ConvAlign', student_channels=256, teacher_channels=256),
    weight=dict(ratio=0.5, iters=200))
