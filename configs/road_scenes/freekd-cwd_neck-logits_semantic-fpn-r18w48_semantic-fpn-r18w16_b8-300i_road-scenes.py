"""FreeKD on the FPN and CWD on the logits: of the terms that kept their share, the best on a held-out part of the training split."""
_base_ = ['./freekd_neck_semantic-fpn-r18w48_semantic-fpn-r18w16_b8-300i_road-scenes.py']
model = dict(
    terms=dict(
        loss_logit=dict(
            type='freqkd.DistillTerm',
            student='decode_head.conv_seg',
            adapter=dict(type='freqkd.SegLogits'),
            loss=dict(type='freqkd.CWDLoss', tau=4.0),
            weight=dict(share=0.5, iters=50))))
