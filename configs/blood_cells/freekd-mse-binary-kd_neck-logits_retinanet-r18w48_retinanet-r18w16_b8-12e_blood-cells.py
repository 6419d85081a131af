"""FreeKD and MSE on the FPN, binary KD on the class maps: the logit term that did best on a held-out part of the training split."""
_base_ = ['./freekd-mse_neck_retinanet-r18w48_retinanet-r18w16_b8-12e_blood-cells.py']
model = dict(
    terms=dict(
        loss_logit=dict(
            type='freqkd.DistillTerm',
            student='bbox_head.retina_cls',
            adapter=dict(type='freqkd.DenseLogits', num_classes=3),
            loss=dict(
                type='freqkd.LogitLoss', softening=dict(type='fixed', tau=1.0), divergence='binary_kl', activation='sigmoid'),
            weight=dict(share=0.5, iters=50))))
