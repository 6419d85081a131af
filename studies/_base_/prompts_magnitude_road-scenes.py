"""Prompt stage whose scores are of the bands' absolute values."""

_base_ = ["../../configs/freekd/prompts_neck_semantic-fpn-r18w48_b8-80i_road-scenes.py"]
model = dict(prompts=dict(score="magnitude"))
