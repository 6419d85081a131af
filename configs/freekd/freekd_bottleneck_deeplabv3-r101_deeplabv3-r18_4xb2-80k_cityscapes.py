"""Stage 2 on Cityscapes: DeepLabV3-R101 to R18, FreeKD on the bottleneck before the classifier.

Preset `paper`, the weight a ratio to the task's gradient.
"""
_base_ = [
    'mmseg::deeplabv3/deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024.py',
    '../_base_/teachers/deeplabv3_r101_cityscapes.py',
    '../_base_/distill/bottleneck_128-512.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}},
    terms=dict(
        loss_freekd=dict(
            _base_.feature_term, loss=dict(type='freqkd.FreeKDLoss', preset='paper'),
            prompts='work_dirs/prompts_bottleneck_deeplabv3-r101_4xb2-2000i_cityscapes/prompts.pth')))
