"""CrossKD's class and box terms (arXiv 2306.11369) on RetinaNet, from the FPN on, with the shipped teacher."""
_base_ = ['../_base_/distill/blood_cells_logits.py']
distill_term = dict(
    _delete_=True,
    type='freqkd.DistillTerm',
    student='neck',
    align=dict(type='freqkd.ConvAlign', student_channels=32, teacher_channels=64, num_levels=5),
    adapter=dict(type='freqkd.CrossHead', index=0, cls='retina_cls', reg='retina_reg'),
    loss=dict(type='freqkd.CrossKDBoxLoss', class_weight=1.0, box_weight=1.0),
    weight=dict(share=0.5, iters=50))
model = dict(terms=dict(loss_logit=distill_term))
