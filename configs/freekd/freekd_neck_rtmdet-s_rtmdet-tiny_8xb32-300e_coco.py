"""Stage 2 on COCO: RTMDet-s to tiny, FreeKD on the neck. Preset `paper`, the weight a ratio to the task's gradient."""
_base_ = [
    'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    '../_base_/teachers/rtmdet_s_coco.py',
    '../_base_/distill/neck_96-128.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}},
    terms=dict(
        loss_freekd=dict(
            _base_.neck_term, loss=dict(type='freqkd.FreeKDLoss', preset='paper'),
            prompts='work_dirs/prompts_neck_rtmdet-s_8xb2-2000i_coco/prompts.pth')))
