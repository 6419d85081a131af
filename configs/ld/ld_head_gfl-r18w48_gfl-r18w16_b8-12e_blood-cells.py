"""LD with the valuable localisation region and class KD (arXiv 2102.12252)."""
_base_ = [
    '../baselines/gfl_r18w16_b8-12e_blood-cells.py',
    '../_base_/teachers/gfl_r18w48_blood-cells.py',
    '../_base_/distill/head_blood-cells.py',
]
model = dict(
    _delete_=True, type='freqkd.Distiller', student={{_base_.model}}, teacher={{_base_.teacher}}, monitor=20,
    terms=dict(loss_head=dict(_base_.head_term, adapter=dict(type='freqkd.LDTargets'), loss=dict(type='freqkd.LDLoss'))))
