"""KD of sigmoid class maps: the binary KL of every class of every anchor."""
_base_ = ['../_base_/distill/blood_cells_logits.py']
distill_loss = dict(
    type='freqkd.LogitLoss', softening=dict(type='fixed', tau=1.0), divergence='binary_kl', activation='sigmoid')
model = dict(terms=dict(loss_logit=dict(loss=distill_loss)))
