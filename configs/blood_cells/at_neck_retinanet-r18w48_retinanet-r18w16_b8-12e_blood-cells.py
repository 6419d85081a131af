"""AT (arXiv 1612.03928): where both networks look on the FPN. Channels are summed away, so nothing is aligned."""
_base_ = ['../_base_/distill/blood_cells_neck.py']
model = dict(
    terms=dict(
        loss_feature=dict(
            loss=dict(type='freqkd.ATLoss'))))
