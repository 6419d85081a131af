"""Road scenes, segmentation: methods beside the student alone, which starts from ImageNet and is frozen but for its end."""

_base_ = ["./_base_/segmentation.py", "./_base_/road_scenes.py", "./_base_/methods_segmentation.py"]
name = "road-scenes-frozen"
student = "studies/_base_/student_frozen_road-scenes.py"
control = None
budget = 300
