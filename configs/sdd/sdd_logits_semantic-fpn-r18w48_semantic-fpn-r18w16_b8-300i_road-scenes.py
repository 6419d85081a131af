"""Scale-decoupled KD on 1, 2 and 4 regions a side (arXiv 2403.13512); a region has its majority label."""
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
                type='freqkd.LogitLoss', softening=dict(type='fixed', tau=4.0), divergence='kl', regions=dict(scales=(1, 2, 4)),
                ignore_index=255))))
