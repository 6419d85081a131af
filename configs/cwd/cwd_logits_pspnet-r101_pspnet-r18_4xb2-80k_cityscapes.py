"""Cityscapes, PSPNet-R101 to R18: CWD on the logits as mmrazor publishes it for this pair: tau 1, weight 5 (arXiv 2011.13256)."""
_base_ = [
    'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py',
    '../_base_/teachers/pspnet_r101_cityscapes.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}},
    terms=dict(
        loss_logit=dict(
            type='freqkd.DistillTerm',
            student_tap='decode_head.conv_seg',
            adapter=dict(type='freqkd.SegLogits'),
            loss=dict(type='freqkd.CWDLoss', tau=1.0),
            weight=5.0)))
