"""Cityscapes, PSPNet-R101 to R18.

The whitened details of the bottleneck before the classifier, and PKD (arXiv 2207.02039) for the low band that they leave out.
"""
_base_ = ['./freekd-whitened_bottleneck_pspnet-r101_pspnet-r18_4xb2-80k_cityscapes.py']
model = dict(
    terms=dict(loss_pkd=dict(_base_.feature_term, loss=dict(type='freqkd.PKDLoss'), weight=dict(ratio=2.0, iters=200))))
