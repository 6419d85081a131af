"""Cityscapes, PSPNet-R101 to R18: DIST as in its released segmentation program (arXiv 2205.10536); the protocol is mmseg's.

Weight 1 on the logits, 0.4 on those of the auxiliary head; positions without label count too.
"""
_base_ = ['mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py']
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
distill_loss = dict(type='freqkd.LogitLoss', softening=dict(type='fixed', tau=1.0), divergence='dist')
model = dict(
    _delete_=True,
    type='freqkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmseg::pspnet/pspnet_r101-d8_4xb2-80k_cityscapes-512x1024.py',
        checkpoint='https://download.openmmlab.com/mmsegmentation/v0.5/pspnet/pspnet_r101-d8_512x1024_80k_cityscapes/'
        'pspnet_r101-d8_512x1024_80k_cityscapes_20200606_112211-e1e1100f.pth'),
    terms=dict(
        loss_logit=dict(
            type='freqkd.DistillTerm',
            student='decode_head.conv_seg',
            adapter=dict(type='freqkd.SegLogits'),
            loss=distill_loss,
            weight=1.0),
        loss_auxiliary=dict(
            type='freqkd.DistillTerm',
            student='auxiliary_head.conv_seg',
            adapter=dict(type='freqkd.SegLogits'),
            loss=distill_loss,
            weight=0.4)))
