"""DTKD, tau 4 (arXiv 2404.12711): the dynamic term and plain KD.

Of the shares 3 to 1, as the authors' weights; a warm-up of 25 iterations, as 20 of their 240 epochs.
"""
_base_ = ['../_base_/distill/road_scenes_logits.py']
dynamic_loss = dict(
    type='freqkd.LogitLoss', softening=dict(type='dynamic', tau=4.0), divergence='kl', ignore_index=255)
fixed_loss = dict(
    type='freqkd.LogitLoss', softening=dict(type='fixed', tau=4.0), divergence='kl', ignore_index=255)
warmup = dict(warmup=25, by_epoch=False)
model = dict(
    terms=dict(
        loss_logit=dict(loss=dynamic_loss, weight=dict(share=0.375), schedule=warmup),
        loss_kd=dict(
            type='freqkd.DistillTerm',
            student='decode_head.conv_seg',
            adapter=dict(type='freqkd.SegLogits'),
            loss=fixed_loss,
            weight=dict(share=0.125, iters=50),
            schedule=warmup)))
