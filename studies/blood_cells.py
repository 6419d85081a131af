"""Blood cells, detection: methods beside the student alone, 12 epochs."""

_base_ = ["./_base_/detection.py", "./_base_/blood_cells.py", "./_base_/methods_detection.py"]
name = "blood-cells"
control = None  # the smallest study: 15 runs with --methods mse details
budget = 240
