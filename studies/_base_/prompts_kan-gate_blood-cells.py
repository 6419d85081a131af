"""Prompt stage that trains the relation's gates, too: KAN layers a level."""

_base_ = ["../../configs/freekd/prompts_neck_retinanet-r18w48_b8-4e_blood-cells.py"]
model = dict(gate="kan")
