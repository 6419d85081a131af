"""COCO, ATSS-R101 to R50: CrossKD (arXiv 2306.11369), the student keeps 3 of 4 head convolutions, the released weights."""
_base_ = [
    '../baselines/atss_r50_8xb2-1x_coco.py',
    '../_base_/teachers/atss_r101_coco.py',
]
custom_imports = dict(imports=['freqkd.registry'], allow_failed_imports=False)
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}},
    terms=dict(
        loss_head=dict(
            type='freqkd.DistillTerm', student_tap='neck',
            adapter=dict(type='freqkd.CrossHead', index=3, cls='atss_cls', reg='atss_reg', centerness='atss_centerness'),
            loss=dict(type='freqkd.CrossKDBoxLoss'), weight=1.0)))
