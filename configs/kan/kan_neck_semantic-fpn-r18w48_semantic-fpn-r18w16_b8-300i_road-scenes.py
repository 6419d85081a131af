"""MSE on the FPN behind a KAN layer (arXiv 2404.19756) instead of a convolution."""
_base_ = [
    '../baselines/semantic-fpn_r18w16_b8-300i_road-scenes.py',
    '../_base_/teachers/semantic-fpn_r18w48_road-scenes.py',
    '../_base_/distill/neck_road-scenes.py',
]
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}}, monitor=20,
    terms=dict(loss_feature=dict(
        _base_.neck_term, loss=dict(type='freqkd.MSELoss'),
        align=dict(type='freqkd.KANAlign', student_channels=32, teacher_channels=64, num_levels=4))))
