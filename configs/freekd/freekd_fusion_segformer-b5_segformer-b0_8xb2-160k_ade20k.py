"""Stage 2 on ADE20K: SegFormer-B5 to B0, FreeKD on the fused map of the head.

Preset `paper`, the weight a ratio to the task's gradient.
"""
_base_ = [
    'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
    '../_base_/teachers/segformer_b5_ade20k.py',
    '../_base_/distill/fusion_segformer.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}},
    terms=dict(
        loss_freekd=dict(
            _base_.feature_term, loss=dict(type='freqkd.FreeKDLoss', preset='paper'),
            prompts='work_dirs/prompts_fusion_segformer-b5_8xb2-2000i_ade20k/prompts.pth')))
