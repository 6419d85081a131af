"""A term on the logits of the road scenes' student; a config adds the loss.

The weight is a ratio to the task's gradient at the logits: the papers' weights were chosen for CIFAR and ImageNet, where
the loss is a mean over images, and do not carry over to a mean over pixels.
"""
logit_term = dict(
    type='freqkd.DistillTerm',
    student_tap='decode_head.conv_seg',
    adapter=dict(type='freqkd.SegLogits'),
    weight=dict(ratio=0.5, iters=50))
