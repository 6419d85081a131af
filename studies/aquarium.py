"""Sea animals, detection: methods beside the student alone, which starts from ImageNet."""

_base_ = ["./_base_/detection.py", "./_base_/aquarium.py", "./_base_/methods_detection.py"]
name = "aquarium"
student = "configs/baselines/retinanet_lite0_b8-12e_aquarium.py"  # from nothing it ends near 0 even after 540 steps
_head = dict(terms=dict(loss_logit=dict(adapter=dict(num_classes=7))))
methods = {"binary-kd": _head, "details+binary-kd": _head}
control = None
budget = 480
seeds = 4
search = dict(  # the gain still grows from ratio 2 to 8
    methods=[dict(ratio=2.0), dict(ratio=8.0), dict(ratio=32.0)],
    student=[dict(lr=1.0), dict(lr=2.0), dict(lr=0.5)],
)
