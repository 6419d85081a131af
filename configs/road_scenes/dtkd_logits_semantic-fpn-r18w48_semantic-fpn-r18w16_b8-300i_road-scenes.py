"""DTKD, the dynamic term alone, tau 4 (arXiv 2404.12711)."""
_base_ = ['../_base_/distill/road_scenes_logits.py']
distill_loss = dict(
    type='freqkd.LogitLoss', softening=dict(type='dynamic', tau=4.0), divergence='kl', ignore_index=255)
model = dict(terms=dict(loss_logit=dict(loss=distill_loss)))
