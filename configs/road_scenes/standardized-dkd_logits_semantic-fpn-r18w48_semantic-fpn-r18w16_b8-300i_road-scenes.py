"""DKD on standardised logits, tau 2 (arXiv 2403.01427, 2203.08679), with DKD's warm-up."""
_base_ = ['../_base_/distill/road_scenes_logits.py']
distill_loss = dict(
    type='freqkd.LogitLoss', softening=dict(type='standardized', tau=2.0), divergence=dict(type='dkd', alpha=1.0, beta=8.0),
    ignore_index=255)
model = dict(terms=dict(loss_logit=dict(loss=distill_loss, schedule=dict(warmup=25, by_epoch=False))))
