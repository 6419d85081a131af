"""Sea animals, detection: methods beside the student alone, 12 epochs."""

_base_ = ["./_base_/detection.py", "./_base_/aquarium.py", "./_base_/methods_detection.py"]
name = "aquarium"
_head = dict(terms=dict(loss_logit=dict(adapter=dict(num_classes=7))))
methods = {"binary-kd": _head, "details+binary-kd": _head}
budget = 540
