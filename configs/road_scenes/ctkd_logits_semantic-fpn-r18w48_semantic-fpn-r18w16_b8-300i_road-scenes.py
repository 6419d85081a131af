"""CTKD: a temperature learnt against the student (arXiv 2211.16231).

Progress counts iterations: the reversal is whole after 12 of 300, as after 10 of the authors' 240 epochs.
"""
_base_ = ['../_base_/distill/road_scenes_logits.py']
distill_loss = dict(
    type='freqkd.LogitLoss', softening=dict(type='learned', epochs=12), divergence='kl', ignore_index=255)
model = dict(terms=dict(loss_logit=dict(loss=distill_loss, progress='iter')))
