"""Blood cells, detection: forms of the wavelet loss."""

_base_ = ["./_base_/detection.py", "./_base_/blood_cells.py", "./_base_/forms.py"]
name = "blood-cells-forms"
term = dict(weight=dict(ratio=8.0, iters=50))
_stages = {
    "": "configs/freekd/prompts_neck_retinanet-r18w48_b8-4e_blood-cells.py",
    "-magnitude": "studies/_base_/prompts_magnitude_blood-cells.py",
}
_head = "bbox_head.retina_cls"
_scores = dict(terms=dict(loss_form=dict(adapter=dict(head=_head, num_classes=3))))
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
_widths = dict(student_channels=32, teacher_channels=64, num_levels=3)
_variances = [
    4.2,
    0.48,
    0.40,
    0.15,
    1.1,
    1.0,
    0.51,
    2.2,
    2.1,
    1.1,
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
    "weak-pkd+whitened": dict(terms=dict(loss_pkd=dict(weight=dict(ratio=2.0)))),
    "paper": dict(prompts=_stages[""]),
    "freekd-plus": dict(prompts=_stages[""]),
    **{_gate: dict(prompts=f"studies/_base_/prompts_{_gate}_blood-cells.py") for _gate in ("gate", "kan-gate")},
    "details-conv-bn": dict(
        terms=dict(
            loss_form=dict(
                loss=dict(type="freqkd.FreeKDLoss", preset="details"), align=dict(_aligns["conv-bn"], **_widths)
            )
        )
    ),
    "fourierkd": dict(terms=dict(loss_form=dict(loss=dict(num_levels=3)))),
    "ds2d2": dict(
        terms=dict(
            loss_form=dict(
                student_levels=None,
                align=dict(type="freqkd.ConvAlign", student_channels=32, teacher_channels=64, num_levels=5),
                adapter=dict(type="freqkd.BandHead"),
                loss=dict(type="freqkd.CrossKDBoxLoss"),
                weight=dict(ratio=0.5, iters=50),
            )
        )
    ),
    "ds2d2-details": dict(  # the details alone, in a head that was trained on the teacher's
        head="configs/ds2d2/ds2d2-head_neck_retinanet-r18w48_b8-4e_blood-cells.py",
        terms=dict(
            loss_form=dict(
                student_levels=None,
                align=dict(type="freqkd.ConvAlign", student_channels=32, teacher_channels=64, num_levels=5),
                adapter=dict(type="freqkd.BandHead", bands="details", head=True),
                loss=dict(type="freqkd.CrossKDBoxLoss"),
                weight=dict(ratio=0.5, iters=50),
            )
        ),
    ),
    **{
        f"masks-{_combine}{_suffix}": dict(prompts=_stage)
        for _suffix, _stage in _stages.items()
        for _combine in ("mean", "rms", "contrast")
    },
}
budget = 240
