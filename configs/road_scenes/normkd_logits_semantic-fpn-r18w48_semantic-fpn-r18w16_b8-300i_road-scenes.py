"""NormKD, T_norm 2 (arXiv 2308.00520)."""
_base_ = ['../_base_/distill/road_scenes_logits.py']
distill_loss = dict(
    type='freqkd.LogitLoss', softening=dict(type='normalized', tau=2.0), divergence='kl', ignore_index=255)
model = dict(terms=dict(loss_logit=dict(loss=distill_loss)))
