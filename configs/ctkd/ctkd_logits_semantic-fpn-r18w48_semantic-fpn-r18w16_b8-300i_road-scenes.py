"""CTKD: a temperature learnt against the student (arXiv 2211.16231).

Progress counts iterations: the reversal is whole after 12 of 300, as after 10 of the authors' 240 epochs.
"""
_base_ = [
    '../baselines/semantic-fpn_r18w16_b8-300i_road-scenes.py',
    '../_base_/teachers/semantic-fpn_r18w48_road-scenes.py',
    '../_base_/distill/logits_road-scenes.py',
]
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}}, monitor=20,
    terms=dict(
        loss_logit=dict(
            _base_.logit_term,
            loss=dict(
                type='freqkd.LogitLoss', softening=dict(type='learned', epochs=12), divergence='kl',
                ignore_index=255),
            progress='iter')))
