"""Road scenes, segmentation: methods beside the student alone."""

_base_ = ["./_base_/segmentation.py", "./_base_/road_scenes.py", "./_base_/methods_segmentation.py"]
name = "road-scenes"
budget = 300
