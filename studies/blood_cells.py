"""Blood cells, detection: methods beside the student alone, 12 epochs."""

_base_ = ["./_base_/detection.py", "./_base_/blood_cells.py", "./_base_/methods_detection.py"]
name = "blood-cells"
budget = 240
