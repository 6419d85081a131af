"""CrossKD's class and box terms (arXiv 2306.11369) on RetinaNet, from the FPN on, with the shipped teacher."""
_base_ = [
    '../baselines/retinanet_r18w16_b8-12e_blood-cells.py',
    '../_base_/teachers/retinanet_r18w48_blood-cells.py',
    '../_base_/distill/head_blood-cells.py',
]
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}}, monitor=20,
    terms=dict(
        loss_logit=dict(
            _base_.head_term,
            align=dict(type='freqkd.ConvAlign', student_channels=32, teacher_channels=64, num_levels=5),
            adapter=dict(type='freqkd.CrossHead', index=0, cls='retina_cls', reg='retina_reg'),
            loss=dict(type='freqkd.CrossKDBoxLoss', class_weight=1.0, box_weight=1.0))))
