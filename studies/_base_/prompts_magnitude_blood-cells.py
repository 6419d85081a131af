"""Prompt stage whose scores are of the bands' absolute values."""

_base_ = ["../../configs/freekd/prompts_neck_retinanet-r18w48_b8-4e_blood-cells.py"]
model = dict(prompts=dict(score="magnitude"))
