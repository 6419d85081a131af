"""The whitened details, and PKD (arXiv 2207.02039) for the low band that they leave out. Needs no stage 1."""
_base_ = ['./freekd-whitened_neck_retinanet-r18w48_retinanet-r18w16_b8-12e_blood-cells.py']
model = dict(
    terms=dict(loss_pkd=dict(_base_.neck_term, loss=dict(type='freqkd.PKDLoss'), weight=dict(ratio=8.0, iters=50))))
