"""Class maps of the blood cells' student against its teacher's: a config fills in the loss.

The weight is a share of the task's gradient at the class maps: a fixed one depends on how the detector normalises its own loss.
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
        loss_logit=dict(
            type='freqkd.DistillTerm',
            student='bbox_head.retina_cls',
            adapter=dict(type='freqkd.DenseLogits', num_classes=3),
            weight=dict(share=0.5, iters=50))))
