"""A term on the neck of a tiny and a small RTMDet or YOLOX, three levels; a config adds the loss."""
neck_term = dict(
    type='freqkd.DistillTerm',
    student_tap='neck',
    align=dict(type='freqkd.ConvAlign', student_channels=96, teacher_channels=128, num_levels=3),
    weight=dict(ratio=1.0, iters=200))
