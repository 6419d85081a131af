"""Stage 2 on Cityscapes: PSPNet-R101 to R18 on the bottleneck before the classifier. Preset `paper`, weight a share."""
_base_ = ['mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py']
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type='freqkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmseg::pspnet/pspnet_r101-d8_4xb2-80k_cityscapes-512x1024.py',
        checkpoint='https://download.openmmlab.com/mmsegmentation/v0.5/pspnet/pspnet_r101-d8_512x1024_80k_cityscapes/'
        'pspnet_r101-d8_512x1024_80k_cityscapes_20200606_112211-e1e1100f.pth'),
    terms=dict(
        loss_freekd=dict(
            type='freqkd.DistillTerm',
            student='decode_head.bottleneck',
            align=dict(type='freqkd.ConvAlign', student_channels=128, teacher_channels=512),
            loss=dict(type='freqkd.FreeKDLoss', channels=512, num_levels=1, num_prompts=2, preset='paper'),
            prompts='work_dirs/prompts_bottleneck_pspnet-r101_4xb2-2000i_cityscapes/prompts.pth',
            weight=dict(share=0.5, iters=200))))
