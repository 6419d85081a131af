"""Building facades, segmentation: methods beside the student alone."""

_base_ = ["./_base_/segmentation.py", "./_base_/facades_segmentation.py", "./_base_/methods_segmentation.py"]
name = "facades-segmentation"
budget = 600
search = dict(  # the learning rate of the config may be low, so the methods try twice of it, too
    methods=[dict(ratio=2.0), dict(ratio=8.0), dict(ratio=2.0, lr=2.0)],
    student=[dict(lr=1.0), dict(lr=2.0), dict(lr=4.0)],
)
