"""Building facades, detection: the same seconds and learning rates for methods and the student alone."""

_base_ = ["./facades_detection.py"]
name = "facades-detection-same-time"
budget = "210s"
seeds, pilot = 10, 3
search = dict(
    methods=[dict(ratio=8.0), dict(ratio=8.0, lr=2.0), dict(ratio=8.0, lr=4.0), dict(ratio=8.0, lr=8.0)],
    student=[dict(lr=1.0), dict(lr=2.0), dict(lr=4.0), dict(lr=8.0)],
)
