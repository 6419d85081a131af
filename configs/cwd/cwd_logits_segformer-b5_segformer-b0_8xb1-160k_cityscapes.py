"""Cityscapes, SegFormer-B5 to B0: CWD on the logits, tau 4 (arXiv 2011.13256); the weight is a ratio to the task's gradient."""
_base_ = [
    'mmseg::segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py',
    '../_base_/teachers/segformer_b5_cityscapes.py',
    '../_base_/distill/logits_segmenter.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}},
    terms=dict(
        loss_logit=dict(_base_.logit_term, loss=dict(type='freqkd.CWDLoss', tau=4.0))))
