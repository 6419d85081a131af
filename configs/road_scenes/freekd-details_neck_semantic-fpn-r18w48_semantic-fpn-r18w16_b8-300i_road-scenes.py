"""The details of the wavelet transform alone, every coefficient alike, squared: MSE without its low band. Needs no stage 1."""
_base_ = ['./freekd_neck_semantic-fpn-r18w48_semantic-fpn-r18w16_b8-300i_road-scenes.py']
model = dict(
    terms=dict(loss_freekd=dict(loss=dict(preset='details'), prompts=None, weight=dict(share=2.0))))
