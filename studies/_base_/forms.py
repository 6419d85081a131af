"""Forms of the wavelet loss, one axis at a time, judged on the selection part."""

report = False
seeds = 2
_low, _fine, _middle, _coarse = 1 / 64, 1 / 4, 1 / 16, 1 / 64  # shares of the coefficients: together they are "flat"
_forms = {  # what differs from l2 of the details, depth 3, without masks
    "details": {},
    **{
        f"{_bands}-by-{_how}": dict(band_weights=_bands, standardize=_how)
        for _how in ("level", "channel", "both")
        for _bands in ("details", "flat")
    },
    "low": dict(band_weights=[_low, 0, 0, 0]),
    "whitened": dict(band_weights="whitened"),
    "norm-l1": dict(norm="l1"),
    "norm-huber": dict(norm="huber"),
    "norm-log": dict(norm="log"),
    "huber-by-level": dict(norm="huber", standardize="level"),  # its knee is at the teacher's deviation
    "details-fine": dict(band_weights=[0, _fine, 0, 0]),
    "details-middle": dict(band_weights=[0, 0, _middle, 0]),
    "details-coarse": dict(band_weights=[0, 0, 0, _coarse]),
    "details-lh": dict(band_weights=[0, _fine, 0, 0, _middle, 0, 0, _coarse, 0, 0]),
    "details-hl": dict(band_weights=[0, 0, _fine, 0, 0, _middle, 0, 0, _coarse, 0]),
    "details-hh": dict(band_weights=[0, 0, 0, _fine, 0, 0, _middle, 0, 0, _coarse]),
    "details-x2": dict(band_weights=[_low, 2 * _fine, 2 * _middle, 2 * _coarse]),
    "details-x4": dict(band_weights=[_low, 4 * _fine, 4 * _middle, 4 * _coarse]),
    "bands-alike": dict(band_weights="mean"),
    "depth-1": dict(depth=1),
    "depth-2": dict(depth=2),
    "depth-4": dict(depth=4),
    "attention": dict(relation="attention"),
    "local": dict(relation="local"),
    "wavelet-db2": dict(wavelet="db2"),
    "condensed": {},  # fewer and fewer of the images
}
_masks = {  # of prompts, over the details
    f"masks-{_combine}{_suffix}": dict(combine=_combine, score=_score)
    for _suffix, _score in (("", "signed"), ("-magnitude", "magnitude"))
    for _combine in ("mean", "rms", "contrast")
}
methods = {
    "mse": dict(terms=dict(loss_mse=dict(loss=dict(type="freqkd.MSELoss")))),
    "pkd": dict(terms=dict(loss_pkd=dict(loss=dict(type="freqkd.PKDLoss")))),
    **{
        _name: dict(terms=dict(loss_form=dict(loss=dict(type="freqkd.FreeKDLoss", preset="details", **_form))))
        for _name, _form in _forms.items()
    },
    "paper": dict(terms=dict(loss_form=dict(loss=dict(type="freqkd.FreeKDLoss", preset="paper"), prompts=True))),
    **{
        _name: dict(
            terms=dict(loss_form=dict(loss=dict(type="freqkd.FreeKDLoss", preset="details", **_form), prompts=True))
        )
        for _name, _form in _masks.items()
    },
    **{  # the relation's gates as trained in the prompt stage, over "masks-mean"
        _gate: dict(
            terms=dict(
                loss_form=dict(
                    loss=dict(type="freqkd.FreeKDLoss", preset="details", combine="mean", relation=_gate), prompts=True
                )
            )
        )
        for _gate in ("gate", "kan-gate")
    },
    **{
        f"score-{_weight}": dict(
            terms=dict(
                loss_form=dict(
                    adapter=dict(type="freqkd.ScoreMaps", weight=_weight),
                    loss=dict(type="freqkd.FreeKDLoss", preset="details"),
                )
            )
        )
        for _weight in ("teacher", "difference")
    },
    "pkd+details": dict(
        terms=dict(
            loss_pkd=dict(loss=dict(type="freqkd.PKDLoss")),
            loss_form=dict(loss=dict(type="freqkd.FreeKDLoss", preset="details")),
        )
    ),
    "pkd+whitened": dict(
        terms=dict(
            loss_pkd=dict(loss=dict(type="freqkd.PKDLoss")),
            loss_form=dict(loss=dict(type="freqkd.FreeKDLoss", preset="whitened")),
        )
    ),
    "weak-pkd+whitened": dict(
        terms=dict(
            loss_pkd=dict(loss=dict(type="freqkd.PKDLoss"), weight=dict(ratio=0.5, iters=50)),
            loss_form=dict(loss=dict(type="freqkd.FreeKDLoss", preset="whitened")),
        )
    ),
    "mse+whitened": dict(
        terms=dict(
            loss_mse=dict(loss=dict(type="freqkd.MSELoss")),
            loss_form=dict(loss=dict(type="freqkd.FreeKDLoss", preset="whitened")),
        )
    ),
    "details+low-by-both": dict(  # the low band as a correlation
        terms=dict(
            loss_form=dict(loss=dict(type="freqkd.FreeKDLoss", preset="details")),
            loss_low=dict(
                loss=dict(type="freqkd.FreeKDLoss", preset="details", band_weights=[_low, 0, 0, 0], standardize="both"),
                weight=dict(ratio=0.5, iters=50),
            ),
        )
    ),
    "relaxed-low": dict(terms=dict(loss_form=dict(loss=dict(type="freqkd.RelaxedLowLoss")))),
    "freekd-plus": dict(terms=dict(loss_form=dict(loss=dict(type="freqkd.FreeKDPlusLoss"), prompts=True))),
    "fourierkd": dict(terms=dict(loss_form=dict(loss=dict(type="freqkd.FourierKDLoss", channels=64)))),
    "high-pass": dict(terms=dict(loss_form=dict(loss=dict(type="freqkd.HighPassLoss")))),
    "cosine": dict(terms=dict(loss_form=dict(loss=dict(type="freqkd.CosineLoss")))),
    "am-radio": dict(terms=dict(loss_form=dict(loss=dict(type="freqkd.AMRadioLoss")))),
    "instance-norm-mse": dict(terms=dict(loss_form=dict(loss=dict(type="freqkd.InstanceNormMSELoss")))),
    "log-sum": dict(terms=dict(loss_form=dict(loss=dict(type="freqkd.LogSumLoss")))),
    "similarity-kl": dict(terms=dict(loss_form=dict(align=None, loss=dict(type="freqkd.SimilarityKLLoss")))),
    "weighted-mse": dict(
        terms=dict(loss_form=dict(adapter=dict(type="freqkd.ScoreMaps"), loss=dict(type="freqkd.WeightedMSELoss")))
    ),
    "details-falling": dict(
        terms=dict(
            loss_form=dict(
                loss=dict(type="freqkd.FreeKDLoss", preset="details"), schedule=dict(decay="cosine", by_epoch=False)
            )
        )
    ),
    "class-details": dict(
        terms=dict(loss_form=dict(align=None, loss=dict(type="freqkd.FreeKDLoss", preset="details")))
    ),
}
