"""The GFL head of the blood cells' student against its teacher's: a config fills in the term.

The teacher is not shipped: python tools/train.py configs/blood_cells/gfl_r18w48_b8-36e_blood-cells.py
"""
_base_ = ['../../blood_cells/gfl_r18w16_b8-12e_blood-cells.py']
model = dict(
    _delete_=True,
    type='freqkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='configs/blood_cells/gfl_r18w48_b8-36e_blood-cells.py',
        checkpoint='work_dirs/gfl_r18w48_b8-36e_blood-cells/epoch_36.pth'),
    monitor=20,
    terms=dict(
        loss_head=dict(type='freqkd.DistillTerm', student='neck', weight=dict(share=0.5, iters=50))))
