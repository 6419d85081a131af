"""LD with the valuable localisation region and class KD (arXiv 2102.12252); the weight is a share at the FPN."""
_base_ = ['../_base_/distill/blood_cells_gfl.py']
model = dict(
    terms=dict(
        loss_head=dict(
            adapter=dict(type='freqkd.LDTargets'),
            loss=dict(type='freqkd.LDLoss'))))
