"""A term on the FPN, levels P3 to P5, between a student of width 32 and a teacher of width 64; a config adds the loss.

The ratio weight makes the term's gradient as strong as the task's: sums and means over maps would need numbers that lie orders
of magnitude apart. P6 and P7 hold 20 and 6 positions and no cell; every level counts alike, so they would take most of the
gradient.
"""
neck_term = dict(
    type='freqkd.DistillTerm',
    student_tap='neck',
    student_levels=(0, 1, 2),
    align=dict(type='freqkd.ConvAlign', student_channels=32, teacher_channels=64, num_levels=3),
    weight=dict(ratio=1.0, iters=50))
