"""A term on the class maps of the blood cells' RetinaNet; a config adds the loss.

The weight is a ratio to the task's gradient at the class maps: the right number would depend on how the detector normalises
its loss.
"""
logit_term = dict(
    type='freqkd.DistillTerm',
    student_tap='bbox_head.retina_cls',
    adapter=dict(type='freqkd.DenseLogits', num_classes=3),
    weight=dict(ratio=0.5, iters=50))
