"""Annealing KD (arXiv 2104.07163), both phases in one run: 200 iterations of MSE on the teacher's growing logits, then the labels.

The first phase has no task loss, the second no teacher; progress counts iterations. MSE has no mixing weight in the paper:
weight 1. Differs from the paper in one schedule of the learning rate over both phases; the second phase continues from the last
weights of the first.
"""
_base_ = [
    '../baselines/semantic-fpn_r18w16_b8-300i_road-scenes.py',
    '../_base_/teachers/semantic-fpn_r18w48_road-scenes.py',
    '../_base_/distill/logits_road-scenes.py',
]
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}}, monitor=20,
    task_schedule=dict(begin=200, by_epoch=False),
    terms=dict(
        loss_logit=dict(
            _base_.logit_term,
            loss=dict(
                type='freqkd.LogitLoss', softening=dict(type='annealed', tau_max=10, epochs=200), divergence='mse',
                ignore_index=255),
            progress='iter',
            weight=1.0)))
