"""NormKD, T_norm 2 (arXiv 2308.00520)."""
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
                type='freqkd.LogitLoss', softening=dict(type='normalized', tau=2.0), divergence='kl',
                ignore_index=255))))
