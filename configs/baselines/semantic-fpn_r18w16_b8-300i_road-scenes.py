"""The student alone: Semantic FPN-R18 of base width 16, FPN 32."""
_base_ = [
    '../_base_/models/semantic_fpn_r18.py',
    '../_base_/datasets/road_scenes.py',
    '../_base_/schedules/adamw_iters.py',
    '../_base_/runtime_mmseg.py',
]
