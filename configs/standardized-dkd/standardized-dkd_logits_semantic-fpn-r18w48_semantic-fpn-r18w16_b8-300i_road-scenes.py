"""DKD on standardised logits, tau 2 (arXiv 2403.01427, 2203.08679), with DKD's warm-up."""
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
                type='freqkd.LogitLoss', softening=dict(type='standardized', tau=2.0), divergence=dict(type='dkd', alpha=1.0, beta=8.0),
                ignore_index=255),
            schedule=dict(warmup=25, by_epoch=False))))
