"""CTKD: a temperature learnt against the student (arXiv 2211.16231); progress counts iterations."""
_base_ = ['../_base_/distill/road_scenes_logits.py']
distill_loss = dict(
    type='freqkd.LogitLoss', softening=dict(type='learned', epochs=150), divergence='kl', ignore_index=255)
model = dict(terms=dict(loss_logit=dict(loss=distill_loss, progress='iter')))
