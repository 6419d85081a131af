"""Road scenes, segmentation: forms of the wavelet loss."""

_base_ = ["./_base_/segmentation.py", "./_base_/road_scenes.py", "./_base_/forms.py"]
name = "road-scenes-forms"
term = dict(weight=dict(ratio=2.0, iters=50))
_stages = {
    "": "configs/freekd/prompts_neck_semantic-fpn-r18w48_b8-80i_road-scenes.py",
    "-magnitude": "studies/_base_/prompts_magnitude_road-scenes.py",
}
_head = "decode_head.conv_seg"
_scores = dict(terms=dict(loss_form=dict(adapter=dict(head=_head, num_classes=5, activation="softmax"))))
_aligns = {  # between the student's maps and their squared error
    "kan": dict(type="freqkd.KANAlign"),
    "projector": dict(type="freqkd.ConvAlign", num_convs=2),
    "projector-bn": dict(type="freqkd.ConvAlign", num_convs=2, batch_norm=True),
    "conv-bn": dict(type="freqkd.ConvAlign", batch_norm=True),
}
_condensed = dict(
    sampler=dict(type="freqkd.CondensedSampler", keep=0.7, stages=5),
    hooks=[dict(type="freqkd.CondensationHook", tap=_head)],
)
_widths = dict(student_channels=32, teacher_channels=64, num_levels=4)
_variances = [
    17.8,
    0.21,
    0.081,
    0.028,
    1.1,
    0.26,
    0.15,
    5.1,
    1.2,
    0.82,
]  # of the teacher's bands, low to coarse, 40 images
_shares = [1 / 64, *[1 / 4] * 3, *[1 / 16] * 3, *[1 / 64] * 3]  # of the coefficients
_weighted = {
    "inverse-variance": [_share / _variance for _share, _variance in zip(_shares, _variances)],
    "spectrum": [0, *[_share * _variance for _share, _variance in zip(_shares[1:], _variances[1:])]],
}
methods = {
    "score-teacher": _scores,
    "score-difference": _scores,
    "weighted-mse": _scores,
    **{
        _name: dict(terms=dict(loss_form=dict(loss=dict(type="freqkd.MSELoss"), align=dict(_align, **_widths))))
        for _name, _align in _aligns.items()
    },
    **{
        _name: dict(
            terms=dict(loss_form=dict(loss=dict(type="freqkd.FreeKDLoss", preset="details", band_weights=_bands)))
        )
        for _name, _bands in _weighted.items()
    },
    "condensed": dict(data=_condensed),
    "class-details": dict(terms=dict(loss_form=dict(student_tap=_head))),
    "paper": dict(prompts=_stages[""]),
    "freekd-plus": dict(prompts=_stages[""]),
    **{_gate: dict(prompts=f"studies/_base_/prompts_{_gate}_road-scenes.py") for _gate in ("gate", "kan-gate")},
    "details-conv-bn": dict(
        terms=dict(
            loss_form=dict(
                loss=dict(type="freqkd.FreeKDLoss", preset="details"), align=dict(_aligns["conv-bn"], **_widths)
            )
        )
    ),
    "fourierkd": dict(terms=dict(loss_form=dict(loss=dict(num_levels=4)))),
    **{
        f"masks-{_combine}{_suffix}": dict(prompts=_stage)
        for _suffix, _stage in _stages.items()
        for _combine in ("mean", "rms", "contrast")
    },
}
budget = 300
