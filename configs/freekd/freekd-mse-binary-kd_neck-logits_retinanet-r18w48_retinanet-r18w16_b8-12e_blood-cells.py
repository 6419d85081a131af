"""FreeKD and MSE on the FPN, binary KD on the class maps: the logit term that did best on a held-out part of the training split."""
_base_ = [
    './freekd-mse_neck_retinanet-r18w48_retinanet-r18w16_b8-12e_blood-cells.py',
    '../_base_/distill/logits_blood-cells.py',
]
model = dict(
    terms=dict(
        loss_logit=dict(
            _base_.logit_term,
            loss=dict(
                type='freqkd.LogitLoss', softening=dict(type='fixed', tau=1.0), divergence='binary_kl',
                activation='sigmoid'))))
