"""CrossKD's class term (arXiv 2306.11369) on RetinaNet, from the FPN on, with the shipped teacher."""
_base_ = ['../_base_/distill/blood_cells_logits.py']
distill_term = dict(
    _delete_=True,
    type='freqkd.DistillTerm',
    student='neck',
    align=dict(type='freqkd.ConvAlign', student_channels=32, teacher_channels=64, num_levels=5),
    adapter=dict(type='freqkd.CrossHead', index=0, cls='retina_cls', reg=None, num_classes=3),
    loss=dict(
        type='freqkd.LogitLoss', softening=dict(type='fixed', tau=1.0), divergence='quality_focal', activation='sigmoid'),
    weight=dict(share=0.5, iters=50))
model = dict(terms=dict(loss_logit=distill_term))
