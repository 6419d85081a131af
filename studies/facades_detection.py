"""Building facades, detection: methods beside the student alone, 12 epochs."""

_base_ = ["./_base_/detection.py", "./_base_/facades_detection.py", "./_base_/methods_detection.py"]
name = "facades-detection"
_head = dict(terms=dict(loss_logit=dict(adapter=dict(num_classes=10))))
methods = {"binary-kd": _head, "details+binary-kd": _head}
budget = 480
