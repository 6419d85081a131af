"""Building facades, segmentation: methods beside the student alone."""

_base_ = ["./_base_/segmentation.py", "./_base_/facades_segmentation.py", "./_base_/methods_segmentation.py"]
name = "facades-segmentation"
budget = 600
