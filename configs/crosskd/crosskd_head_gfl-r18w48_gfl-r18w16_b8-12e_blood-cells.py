"""CrossKD (arXiv 2306.11369) from the FPN on: widths differ, so an align brings the student's features into the teacher's head."""
_base_ = [
    '../baselines/gfl_r18w16_b8-12e_blood-cells.py',
    '../_base_/teachers/gfl_r18w48_blood-cells.py',
    '../_base_/distill/head_blood-cells.py',
]
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}}, monitor=20,
    terms=dict(
        loss_head=dict(
            _base_.head_term,
            align=dict(type='freqkd.ConvAlign', student_channels=32, teacher_channels=64, num_levels=5),
            adapter=dict(type='freqkd.CrossHead', index=0, cls='gfl_cls', reg='gfl_reg'),
            loss=dict(type='freqkd.CrossKDLoss'))))
