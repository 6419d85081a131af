"""Stage 2 on COCO: ATSS-R101 to R50, FreeKD on the FPN. Preset `paper`, the weight a ratio to the task's gradient."""
_base_ = [
    '../baselines/atss_r50_8xb2-1x_coco.py',
    '../_base_/teachers/atss_r101_coco.py',
    '../_base_/distill/neck_256.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}},
    terms=dict(
        loss_freekd=dict(
            _base_.neck_term, loss=dict(type='freqkd.FreeKDLoss', preset='paper'),
            prompts='work_dirs/prompts_neck_atss-r101_8xb2-2000i_coco/prompts.pth')))
