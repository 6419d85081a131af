"""The student alone: RetinaNet-R18 of base width 16, FPN 32."""
_base_ = [
    '../_base_/models/retinanet_r18.py',
    '../_base_/datasets/aquarium.py',
    '../_base_/schedules/adamw_epochs.py',
    '../_base_/runtime_mmdet.py',
]
model = dict(bbox_head=dict(num_classes=7))
