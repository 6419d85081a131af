"""Knowledge condensation (arXiv 2207.05409) of the training images, down to 70 %, with plain KD.

The number of iterations stays: the images that are kept come more often.
"""
_base_ = ['../kd/kd_logits_semantic-fpn-r18w48_semantic-fpn-r18w16_b8-300i_road-scenes.py']
train_dataloader = dict(sampler=dict(_delete_=True, type='freqkd.CondensedSampler', keep=0.7, stages=5))
custom_hooks = [dict(type='freqkd.CondensationHook', tap='decode_head.conv_seg')]
