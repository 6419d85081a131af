"""FreeKD on the FPN and CWD on the logits: of the terms that kept their ratio, the best on a held-out part of the training split."""
_base_ = [
    './freekd_neck_semantic-fpn-r18w48_semantic-fpn-r18w16_b8-300i_road-scenes.py',
    '../_base_/distill/logits_road-scenes.py',
]
model = dict(terms=dict(loss_logit=dict(_base_.logit_term, loss=dict(type='freqkd.CWDLoss', tau=4.0))))
