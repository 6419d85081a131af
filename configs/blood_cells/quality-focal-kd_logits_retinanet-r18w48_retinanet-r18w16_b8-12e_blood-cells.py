"""The quality-focal class term of BCKD (arXiv 2308.14286) and CrossKD (arXiv 2306.11369)."""
_base_ = ['../_base_/distill/blood_cells_logits.py']
distill_loss = dict(
    type='freqkd.LogitLoss', softening=dict(type='fixed', tau=1.0), divergence=dict(type='quality_focal', beta=1.0),
    activation='sigmoid')
model = dict(terms=dict(loss_logit=dict(loss=distill_loss)))
