"""The details of the wavelet transform, each band over what the teacher has in it. Needs no stage 1."""
_base_ = [
    '../baselines/semantic-fpn_r18w16_b8-300i_road-scenes.py',
    '../_base_/teachers/semantic-fpn_r18w48_road-scenes.py',
    '../_base_/distill/neck_road-scenes.py',
]
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}}, monitor=20,
    terms=dict(
        loss_freekd=dict(
            _base_.neck_term,
            loss=dict(type='freqkd.FreeKDLoss', preset='whitened'),
            weight=dict(ratio=2.0, iters=50))))
