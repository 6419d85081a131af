"""DIST: correlation between and within classes (arXiv 2205.10536)."""
_base_ = ['../_base_/distill/road_scenes_logits.py']
distill_loss = dict(
    type='freqkd.LogitLoss', softening=dict(type='fixed', tau=1.0), divergence='dist', ignore_index=255)
model = dict(terms=dict(loss_logit=dict(loss=distill_loss)))
