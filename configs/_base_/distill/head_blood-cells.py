"""A term on the head's predictions for the blood cells; a config adds adapter and loss. The weight is a ratio at the FPN."""
head_term = dict(type='freqkd.DistillTerm', student_tap='neck', weight=dict(ratio=0.5, iters=50))
