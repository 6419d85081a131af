"""Sea animals, detection: methods beside the student alone, which starts from ImageNet."""

_base_ = ["./_base_/detection.py", "./_base_/aquarium.py", "./_base_/methods_detection.py"]
name = "aquarium"
student = "configs/baselines/retinanet_lite0_b8-12e_aquarium.py"  # from nothing it ends near 0 even after 540 steps
_head = dict(terms=dict(loss_logit=dict(adapter=dict(num_classes=7))))
methods = {"binary-kd": _head, "details+binary-kd": _head}
control = None
budget = 600
seeds = 4
search = dict(  # the learning rate of the config may be low, so the methods try twice of it, too
    methods=[dict(ratio=2.0), dict(ratio=8.0), dict(ratio=2.0, lr=2.0)],
    student=[dict(lr=1.0), dict(lr=2.0), dict(lr=4.0)],
)
