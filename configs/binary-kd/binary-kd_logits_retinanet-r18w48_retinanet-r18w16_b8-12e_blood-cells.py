"""KD of sigmoid class maps: the binary KL of every class of every anchor."""
_base_ = [
    '../baselines/retinanet_r18w16_b8-12e_blood-cells.py',
    '../_base_/teachers/retinanet_r18w48_blood-cells.py',
    '../_base_/distill/logits_blood-cells.py',
]
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}}, monitor=20,
    terms=dict(
        loss_logit=dict(
            _base_.logit_term,
            loss=dict(
                type='freqkd.LogitLoss', softening=dict(type='fixed', tau=1.0), divergence='binary_kl',
                activation='sigmoid'))))
