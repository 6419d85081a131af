"""The student's FPN maps in the frozen head of the teacher (DS2D2, arXiv 2512.04413, full frequency). Needs no stage 1."""
_base_ = [
    '../baselines/retinanet_r18w16_b8-12e_blood-cells.py',
    '../_base_/teachers/retinanet_r18w48_blood-cells.py',
    '../_base_/distill/head_blood-cells.py',
]
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}}, monitor=20,
    terms=dict(
        loss_band=dict(
            _base_.head_term,
            align=dict(type='freqkd.ConvAlign', student_channels=32, teacher_channels=64, num_levels=5),
            adapter=dict(type='freqkd.BandHead', bands='all'),
            loss=dict(type='freqkd.CrossKDBoxLoss'))))
