"""BCKD: quality-focal classes and GIoU boxes (arXiv 2308.14286); the weight is a share at the FPN."""
_base_ = ['../_base_/distill/blood_cells_gfl.py']
model = dict(
    terms=dict(
        loss_head=dict(
            adapter=dict(type='freqkd.BCKDTargets'),
            loss=dict(type='freqkd.BCKDLoss'))))
