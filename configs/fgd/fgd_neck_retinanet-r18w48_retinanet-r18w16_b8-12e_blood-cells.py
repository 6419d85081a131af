"""FGD (arXiv 2111.11837): cells and background apart, and the global context, on the FPN; parts weighted as its RetinaNet."""
_base_ = [
    '../baselines/retinanet_r18w16_b8-12e_blood-cells.py',
    '../_base_/teachers/retinanet_r18w48_blood-cells.py',
    '../_base_/distill/neck_blood-cells.py',
]
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}}, monitor=20,
    terms=dict(
        loss_feature=dict(
            _base_.neck_term,
            adapter=dict(type='freqkd.GroundTruthBoxes'),
            loss=dict(type='freqkd.FGDLoss', channels=64, num_levels=3, attention_weight=5e-4))))
