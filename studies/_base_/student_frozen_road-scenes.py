"""A student that starts from ImageNet, whose backbone is frozen but for its last stage."""

_base_ = ["../../configs/baselines/semantic-fpn_lite0_b8-300i_road-scenes.py"]
model = dict(backbone=dict(frozen_stages=3, norm_eval=True))
