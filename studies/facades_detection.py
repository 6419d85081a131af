"""Building facades, detection: methods beside the student alone, 12 epochs."""

_base_ = ["./_base_/detection.py", "./_base_/facades_detection.py", "./_base_/methods_detection.py"]
name = "facades-detection"
_head = dict(terms=dict(loss_logit=dict(adapter=dict(num_classes=10))))
methods = {"binary-kd": _head, "details+binary-kd": _head}
budget = 480
search = dict(  # the learning rate of the config may be low, so the methods try twice of it, too
    methods=[dict(ratio=2.0), dict(ratio=8.0), dict(ratio=2.0, lr=2.0)],
    student=[dict(lr=1.0), dict(lr=2.0), dict(lr=4.0)],
)
amp = "bfloat16"  # a step takes two thirds of the time on processors that have its instructions
