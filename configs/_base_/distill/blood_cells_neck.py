"""P3 to P5 of the blood cells' student against its teacher's: a config fills in the loss.

The weight is a share of the task's gradient at the FPN, as strong as the task: sums and means over maps need weights that lie
orders of magnitude apart.
"""
_base_ = ['../../blood_cells/retinanet_r18w16_b8-12e_blood-cells.py']
model = dict(
    _delete_=True,
    type='freqkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='configs/blood_cells/retinanet_r18w48_b8-36e_blood-cells.py',
        checkpoint='data/teachers/blood-cells_retinanet-r18w48.pth'),
    monitor=20,
    terms=dict(
        loss_feature=dict(
            type='freqkd.DistillTerm', student='neck', levels=(0, 1, 2), weight=dict(share=1.0, iters=50))))
