"""CWD on the logits, tau 4 (arXiv 2011.13256): every channel a distribution over the positions."""
_base_ = ['../_base_/distill/road_scenes_logits.py']
distill_loss = dict(
    type='freqkd.CWDLoss', tau=4.0)
model = dict(terms=dict(loss_logit=dict(loss=distill_loss)))
