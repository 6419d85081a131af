"""A term on the bottleneck before the classifier, PSPNet or DeepLabV3, R18 and R101; a config adds the loss."""
feature_term = dict(
    type='freqkd.DistillTerm',
    student_tap='decode_head.bottleneck',
    align=dict(type='freqkd.ConvAlign', student_channels=128, teacher_channels=512),
    weight=dict(ratio=0.5, iters=200))
