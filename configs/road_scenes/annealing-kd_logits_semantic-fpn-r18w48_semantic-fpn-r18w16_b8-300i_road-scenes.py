"""Annealing KD (arXiv 2104.07163), both phases in one run: 200 iterations of MSE on the teacher's growing logits, then the labels.

The first phase has no task loss, the second no teacher; progress counts iterations. MSE has no mixing weight in the paper: weight 1.
Differs from the paper in one schedule of the learning rate over both phases, and in going on from the last weights of the first.
"""
_base_ = ['../_base_/distill/road_scenes_logits.py']
distill_loss = dict(
    type='freqkd.LogitLoss', softening=dict(type='annealed', tau_max=10, epochs=200), divergence='mse', ignore_index=255)
model = dict(
    task_schedule=dict(begin=200, by_epoch=False),
    terms=dict(
        loss_logit=dict(
            loss=distill_loss, progress='iter', weight=1.0)))
