"""Blood cells, detection: methods beside the student alone, which starts from ImageNet."""

_base_ = ["./_base_/detection.py", "./_base_/blood_cells.py", "./_base_/methods_detection.py"]
name = "blood-cells-pretrained"
student = "configs/baselines/retinanet_lite0_b8-12e_blood-cells.py"
control = None
budget = 240
