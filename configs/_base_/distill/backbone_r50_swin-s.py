"""A term on the four stages of a ResNet-50 and a Swin-S, strides 4 to 32; a config adds the loss."""
feature_term = dict(
    type='freqkd.DistillTerm',
    student_tap='backbone',
    align=dict(
        type='freqkd.ConvAlign', num_levels=4, student_channels=[256, 512, 1024, 2048],
        teacher_channels=[96, 192, 384, 768]),
    weight=dict(ratio=0.5, iters=200))
