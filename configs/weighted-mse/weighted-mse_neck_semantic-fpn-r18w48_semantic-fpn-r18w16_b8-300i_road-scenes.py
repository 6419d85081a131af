"""MSE on the FPN, every position weighted by the teacher's largest class probability at it."""
_base_ = [
    '../baselines/semantic-fpn_r18w16_b8-300i_road-scenes.py',
    '../_base_/teachers/semantic-fpn_r18w48_road-scenes.py',
    '../_base_/distill/neck_road-scenes.py',
]
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}}, monitor=20,
    terms=dict(loss_feature=dict(
        _base_.neck_term, adapter=dict(type='freqkd.ScoreMaps', head='decode_head.conv_seg'),
        loss=dict(type='freqkd.WeightedMSELoss'))))
