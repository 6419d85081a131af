"""NKD, gamma 1.5 (arXiv 2303.13005)."""
_base_ = ['../_base_/distill/road_scenes_logits.py']
distill_loss = dict(
    type='freqkd.LogitLoss', softening=dict(type='fixed', tau=1.0), divergence=dict(type='nkd', gamma=1.5), ignore_index=255)
model = dict(terms=dict(loss_logit=dict(loss=distill_loss)))
