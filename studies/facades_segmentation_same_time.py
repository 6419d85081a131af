"""Building facades, segmentation: the same seconds and learning rates for methods and the student alone."""

_base_ = ["./facades_segmentation.py"]
name = "facades-segmentation-same-time"
budget = "220s"
seeds, pilot = 6, 3
search = dict(  # of once, twice and four times the config's learning rate the highest was best, so they begin at twice
    methods=[dict(ratio=2.0, lr=factor) for factor in (2.0, 4.0, 8.0, 16.0, 32.0)],
    student=[dict(lr=factor) for factor in (2.0, 4.0, 8.0, 16.0, 32.0)],
)
