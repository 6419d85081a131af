"""A term on the logits of a segmenter's classifier; a config adds the loss."""
logit_term = dict(
    type='freqkd.DistillTerm',
    student_tap='decode_head.conv_seg',
    adapter=dict(type='freqkd.SegLogits'),
    weight=dict(ratio=0.5, iters=200))
