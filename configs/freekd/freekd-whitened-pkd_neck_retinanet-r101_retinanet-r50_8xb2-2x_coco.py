"""COCO, RetinaNet-R101 to R50: the whitened details of the FPN, and PKD (arXiv 2207.02039) for the low band that they leave out."""
_base_ = ['./freekd-whitened_neck_retinanet-r101_retinanet-r50_8xb2-2x_coco.py']
model = dict(
    terms=dict(loss_pkd=dict(_base_.neck_term, loss=dict(type='freqkd.PKDLoss'), weight=dict(ratio=8.0, iters=200))))
