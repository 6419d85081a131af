"""DKD, tau 4 (arXiv 2203.08679); a warm-up of 25 iterations, as 20 of the authors' 240 epochs."""
_base_ = ['../_base_/distill/road_scenes_logits.py']
distill_loss = dict(
    type='freqkd.LogitLoss', softening=dict(type='fixed', tau=4.0), divergence=dict(type='dkd', alpha=1.0, beta=8.0),
    ignore_index=255)
model = dict(terms=dict(loss_logit=dict(loss=distill_loss, schedule=dict(warmup=25, by_epoch=False))))
