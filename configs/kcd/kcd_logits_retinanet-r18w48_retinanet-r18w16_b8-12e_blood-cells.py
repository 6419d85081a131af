"""Knowledge condensation (arXiv 2207.05409) of the training images, down to 70 %, with quality focal KD."""
_base_ = ['../quality-focal-kd/quality-focal-kd_logits_retinanet-r18w48_retinanet-r18w16_b8-12e_blood-cells.py']
train_dataloader = dict(sampler=dict(_delete_=True, type='freqkd.CondensedSampler', keep=0.7, stages=5))
custom_hooks = [dict(type='freqkd.CondensationHook', tap='bbox_head.retina_cls')]
