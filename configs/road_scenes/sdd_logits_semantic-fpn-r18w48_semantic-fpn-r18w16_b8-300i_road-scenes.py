"""Scale-decoupled KD on 1, 2 and 4 regions a side (arXiv 2403.13512); a region has its majority label."""
_base_ = ['../_base_/distill/road_scenes_logits.py']
distill_loss = dict(
    type='freqkd.LogitLoss', softening=dict(type='fixed', tau=4.0), divergence='kl', regions=dict(scales=(1, 2, 4)),
    ignore_index=255)
model = dict(terms=dict(loss_logit=dict(loss=distill_loss)))
