"""Logits of the road scenes' student against its teacher's: a config fills in the loss.

The weight is a share of the task's gradient at the logits: the papers' weights were chosen for CIFAR and ImageNet, where the
loss is a mean over images, and do not carry over to a mean over pixels.
"""
_base_ = ['../../road_scenes/semantic-fpn_r18w16_b8-300i_road-scenes.py']
model = dict(
    _delete_=True,
    type='freqkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='configs/road_scenes/semantic-fpn_r18w48_b8-1200i_road-scenes.py',
        checkpoint='data/teachers/road-scenes_semantic-fpn-r18w48.pth'),
    monitor=20,
    terms=dict(
        loss_logit=dict(
            type='freqkd.DistillTerm',
            student='decode_head.conv_seg',
            adapter=dict(type='freqkd.SegLogits'),
            weight=dict(share=0.5, iters=50))))
