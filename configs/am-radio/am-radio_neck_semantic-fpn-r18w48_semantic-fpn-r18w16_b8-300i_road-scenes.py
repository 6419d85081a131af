"""AM-RADIO's feature loss (arXiv 2312.06709) on the FPN: 0.9 cosine and 0.1 smooth L1."""
_base_ = [
    '../baselines/semantic-fpn_r18w16_b8-300i_road-scenes.py',
    '../_base_/teachers/semantic-fpn_r18w48_road-scenes.py',
    '../_base_/distill/neck_road-scenes.py',
]
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}}, monitor=20,
    terms=dict(loss_feature=dict(_base_.neck_term, loss=dict(type='freqkd.AMRadioLoss'))))
