"""A term on the FPN, five levels of 256 channels in both networks; a config adds the loss, and the weight where it is known."""
neck_term = dict(
    type='freqkd.DistillTerm',
    student_tap='neck',
    align=dict(type='freqkd.ConvAlign', student_channels=256, teacher_channels=256, num_levels=5),
    weight=dict(ratio=1.0, iters=200))
