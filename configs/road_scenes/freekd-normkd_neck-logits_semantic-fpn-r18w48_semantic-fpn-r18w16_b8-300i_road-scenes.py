"""FreeKD on the FPN and NormKD on the logits: the logit term that did best on a held-out part of the training split."""
_base_ = ['./freekd_neck_semantic-fpn-r18w48_semantic-fpn-r18w16_b8-300i_road-scenes.py']
model = dict(
    terms=dict(
        loss_logit=dict(
            type='freqkd.DistillTerm',
            student='decode_head.conv_seg',
            adapter=dict(type='freqkd.SegLogits'),
            loss=dict(
                type='freqkd.LogitLoss', softening=dict(type='normalized', tau=2.0), divergence='kl', ignore_index=255),
            weight=dict(share=0.5, iters=50))))
