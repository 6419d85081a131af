"""Road scenes, segmentation: methods beside the student alone, which starts from ImageNet."""

_base_ = ["./_base_/segmentation.py", "./_base_/road_scenes.py", "./_base_/methods_segmentation.py"]
name = "road-scenes-pretrained"
student = "configs/baselines/semantic-fpn_lite0_b8-300i_road-scenes.py"
control = None
budget = 300
