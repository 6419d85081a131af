"""Methods for segmenters beside the student alone, and their search."""

_details = dict(loss=dict(type="freqkd.FreeKDLoss", preset="details"))
_whitened = dict(loss=dict(type="freqkd.FreeKDLoss", preset="whitened"))
_logit = dict(
    student_tap="decode_head.conv_seg",
    align=None,
    adapter=dict(type="freqkd.SegLogits"),
    loss=dict(type="freqkd.CWDLoss", tau=4.0),
)
_pkd = dict(loss=dict(type="freqkd.PKDLoss"))
methods = {
    "mse": dict(terms=dict(loss_mse=dict(loss=dict(type="freqkd.MSELoss")))),
    "pkd": dict(terms=dict(loss_pkd=_pkd)),
    "details": dict(terms=dict(loss_details=_details)),
    "whitened": dict(terms=dict(loss_details=_whitened)),
    "pkd+whitened": dict(terms=dict(loss_pkd=_pkd, loss_details=_whitened)),
    "cwd": dict(terms=dict(loss_logit=_logit)),
    "details+cwd": dict(terms=dict(loss_details=_details, loss_logit=dict(_logit, weight=dict(ratio=0.5, iters=50)))),
}
control = "details"
search = dict(methods=[dict(ratio=2.0), dict(ratio=8.0)], student=[dict(lr=1.0), dict(lr=2.0)])
seeds = 3
