"""FreeKD on the FPN and plain KD on the logits, in one distiller."""
_base_ = ['./freekd_neck_semantic-fpn-r18w48_semantic-fpn-r18w16_b8-300i_road-scenes.py']
model = dict(
    terms=dict(
        loss_logit=dict(
            type='freqkd.DistillTerm',
            student='decode_head.conv_seg',
            adapter=dict(type='freqkd.SegLogits'),
            loss=dict(
                type='freqkd.LogitLoss', softening=dict(type='fixed', tau=4.0), divergence='kl', ignore_index=255),
            weight=dict(share=0.5, iters=50))))
