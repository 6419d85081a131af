"""A term on the FPN, between a student of width 32 and a teacher of width 64; a config adds the loss."""
neck_term = dict(
    type='freqkd.DistillTerm',
    student_tap='neck',
    align=dict(type='freqkd.ConvAlign', student_channels=32, teacher_channels=64, num_levels=4),
    weight=dict(ratio=0.5, iters=50))
