"""Sea animals, detection: the same seconds and learning rates for methods and the student alone."""

_base_ = ["./aquarium.py"]
name = "aquarium-same-time"
budget = "400s"
search = dict(  # the student alone, which starts from ImageNet, ends at 0 with twice the config's learning rate
    methods=[dict(ratio=32.0, lr=0.5), dict(ratio=32.0), dict(ratio=32.0, lr=2.0), dict(ratio=32.0, lr=4.0)],
    student=[dict(lr=0.5), dict(lr=1.0), dict(lr=2.0), dict(lr=4.0)],
)
