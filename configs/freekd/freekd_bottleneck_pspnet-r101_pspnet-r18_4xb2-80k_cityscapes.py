"""Stage 2 on Cityscapes: PSPNet-R101 to R18 on the bottleneck before the classifier. Preset `paper`, the weight a ratio to the task's gradient."""
_base_ = [
    'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py',
    '../_base_/teachers/pspnet_r101_cityscapes.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}},
    terms=dict(
        loss_freekd=dict(
            type='freqkd.DistillTerm',
            student_tap='decode_head.bottleneck',
            align=dict(type='freqkd.ConvAlign', student_channels=128, teacher_channels=512),
            loss=dict(type='freqkd.FreeKDLoss', preset='paper'),
            prompts='work_dirs/prompts_bottleneck_pspnet-r101_4xb2-2000i_cityscapes/prompts.pth',
            weight=dict(ratio=0.5, iters=200))))
