"""The details of the wavelet transform, each band over what the teacher has in it. Needs no stage 1."""
_base_ = [
    '../baselines/retinanet_r18w16_b8-12e_blood-cells.py',
    '../_base_/teachers/retinanet_r18w48_blood-cells.py',
    '../_base_/distill/neck_blood-cells.py',
]
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}}, monitor=20,
    terms=dict(
        loss_feature=dict(
            _base_.neck_term,
            loss=dict(type='freqkd.FreeKDLoss', preset='whitened'),
            weight=dict(ratio=8.0, iters=50))))
