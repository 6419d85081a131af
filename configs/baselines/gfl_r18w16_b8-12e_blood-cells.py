"""A student with box distributions: GFL-R18 of base width 16, FPN 32."""
_base_ = [
    '../_base_/models/gfl_r18.py',
    '../_base_/datasets/blood_cells.py',
    '../_base_/schedules/adamw_epochs.py',
    '../_base_/runtime_mmdet.py',
]
