"""DKD, tau 4 (arXiv 2203.08679); a warm-up of 25 iterations, as 20 of the authors' 240 epochs."""
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
                type='freqkd.LogitLoss', softening=dict(type='fixed', tau=4.0), divergence=dict(type='dkd', alpha=1.0, beta=8.0),
                ignore_index=255),
            schedule=dict(warmup=25, by_epoch=False))))
