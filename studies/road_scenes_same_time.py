"""Road scenes, segmentation: the same seconds and learning rates for methods and the student alone."""

_base_ = ["./road_scenes.py"]
name = "road-scenes-same-time"
budget = "120s"
seeds, pilot = 10, 3
search = dict(
    methods=[dict(ratio=2.0), dict(ratio=2.0, lr=2.0), dict(ratio=2.0, lr=4.0), dict(ratio=2.0, lr=8.0)],
    student=[dict(lr=1.0), dict(lr=2.0), dict(lr=4.0), dict(lr=8.0)],
)
