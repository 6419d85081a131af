"""The whitened details, and PKD (arXiv 2207.02039) for the low band that they leave out. Needs no stage 1."""
_base_ = ['./freekd-whitened_neck_semantic-fpn-r18w48_semantic-fpn-r18w16_b8-300i_road-scenes.py']
model = dict(
    terms=dict(loss_pkd=dict(_base_.neck_term, loss=dict(type='freqkd.PKDLoss'), weight=dict(ratio=2.0, iters=50))))
