"""Road scenes, segmentation: the same seconds and learning rates for methods and the student alone."""

_base_ = ["./road_scenes.py"]
name = "road-scenes-same-time"
budget = "120s"
seeds, pilot = 10, 3
_higher = [dict(lr=_lr) for _lr in (2.0, 4.0, 8.0, 16.0)]  # the highest is best for whitened alone
search = dict(
    methods=[dict(ratio=2.0), *[dict(ratio=2.0, **_trial) for _trial in _higher]],
    student=[dict(lr=1.0), *_higher],
)
