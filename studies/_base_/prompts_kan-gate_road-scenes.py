"""Prompt stage that trains the relation's gates, too: KAN layers a level."""

_base_ = ["../../configs/freekd/prompts_neck_semantic-fpn-r18w48_b8-80i_road-scenes.py"]
model = dict(gate="kan")
