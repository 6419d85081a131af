"""DTKD, tau 4 (arXiv 2404.12711): the dynamic term and plain KD.

Ratios 3 to 1, as the authors' weights; a warm-up of 25 iterations, as 20 of their 240 epochs.
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
            loss=dict(type='freqkd.LogitLoss', softening=dict(type='dynamic', tau=4.0), divergence='kl', ignore_index=255),
            weight=dict(ratio=0.375, iters=50),
            schedule=dict(warmup=25, by_epoch=False)),
        loss_kd=dict(
            _base_.logit_term,
            loss=dict(type='freqkd.LogitLoss', softening=dict(type='fixed', tau=4.0), divergence='kl', ignore_index=255),
            weight=dict(ratio=0.125, iters=50),
            schedule=dict(warmup=25, by_epoch=False))))
