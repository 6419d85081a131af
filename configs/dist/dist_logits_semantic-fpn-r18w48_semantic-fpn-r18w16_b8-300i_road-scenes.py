"""DIST: correlation between and within classes (arXiv 2205.10536)."""
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
            loss=dict(type='freqkd.LogitLoss', softening=dict(type='fixed', tau=1.0), divergence='dist', ignore_index=255))))
