"""Cityscapes, PSPNet-R101 to R18: DIST as in its released segmentation program (arXiv 2205.10536); the protocol is mmseg's.

Weight 1 on the logits, 0.4 on those of the auxiliary head; positions without label count too.
"""
_base_ = [
    'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py',
    '../_base_/teachers/pspnet_r101_cityscapes.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
term = dict(
    type='freqkd.DistillTerm',
    adapter=dict(type='freqkd.SegLogits'),
    loss=dict(type='freqkd.LogitLoss', softening=dict(type='fixed', tau=1.0), divergence='dist'))
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}},
    terms=dict(
        loss_logit=dict(term, student_tap='decode_head.conv_seg', weight=1.0),
        loss_auxiliary=dict(term, student_tap='auxiliary_head.conv_seg', weight=0.4)))
