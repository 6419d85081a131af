"""A term on four levels of equal strides, 256 channels, where the teacher's pyramid begins one level earlier.

A config adds the loss.
"""
neck_term = dict(
    type='freqkd.DistillTerm',
    student_tap='neck',
    student_levels=(0, 1, 2, 3),
    teacher_levels=(1, 2, 3, 4),
    align=dict(type='freqkd.ConvAlign', student_channels=256, teacher_channels=256, num_levels=4),
    weight=dict(ratio=1.0, iters=200))
