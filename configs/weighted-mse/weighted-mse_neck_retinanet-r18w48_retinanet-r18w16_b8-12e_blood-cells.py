"""MSE on the FPN, every position weighted by the teacher's largest class probability at it."""
_base_ = [
    '../baselines/retinanet_r18w16_b8-12e_blood-cells.py',
    '../_base_/teachers/retinanet_r18w48_blood-cells.py',
    '../_base_/distill/neck_blood-cells.py',
]
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}}, monitor=20,
    terms=dict(loss_feature=dict(
        _base_.neck_term, adapter=dict(type='freqkd.ScoreMaps', head='bbox_head.retina_cls'),
        loss=dict(type='freqkd.WeightedMSELoss'))))
