"""KD on the class scores of the student's proposals, tau 1."""
logit_term = dict(
    type='freqkd.DistillTerm',
    student_tap='roi_head.bbox_head.fc_cls',
    adapter=dict(type='freqkd.ProposalLogits'),
    loss=dict(type='freqkd.LogitLoss', softening=dict(type='fixed', tau=1.0), divergence='kl'),
    weight=dict(ratio=0.5, iters=200))
