"""Methods for detectors beside the student alone, and their search."""

_details = dict(loss=dict(type="freqkd.FreeKDLoss", preset="details"))
_whitened = dict(loss=dict(type="freqkd.FreeKDLoss", preset="whitened"))
_logit = dict(
    student_tap="bbox_head.retina_cls",
    student_levels=None,
    align=None,
    adapter=dict(type="freqkd.DenseLogits", num_classes=3),
    loss=dict(
        type="freqkd.LogitLoss", softening=dict(type="fixed", tau=1.0), divergence="binary_kl", activation="sigmoid"
    ),
)
_pkd = dict(loss=dict(type="freqkd.PKDLoss"))
methods = {
    "mse": dict(terms=dict(loss_mse=dict(loss=dict(type="freqkd.MSELoss")))),
    "pkd": dict(terms=dict(loss_pkd=_pkd)),
    "details": dict(terms=dict(loss_details=_details)),
    "whitened": dict(terms=dict(loss_details=_whitened)),
    "pkd+whitened": dict(terms=dict(loss_pkd=_pkd, loss_details=_whitened)),
    "binary-kd": dict(terms=dict(loss_logit=_logit)),
    "crosskd": dict(
        terms=dict(
            loss_head=dict(
                student_levels=None,
                align=dict(type="freqkd.ConvAlign", student_channels=32, teacher_channels=64, num_levels=5),
                adapter=dict(type="freqkd.CrossHead", index=0, cls="retina_cls", reg="retina_reg"),
                loss=dict(type="freqkd.CrossKDBoxLoss"),
            )
        )
    ),
    "details+binary-kd": dict(
        terms=dict(loss_details=_details, loss_logit=dict(_logit, weight=dict(ratio=0.5, iters=50)))
    ),
}
control = "details"
search = dict(methods=[dict(ratio=2.0), dict(ratio=8.0)], student=[dict(lr=1.0), dict(lr=2.0)])
seeds = 3
