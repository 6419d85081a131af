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
methods = {
    "score-teacher": _scores,
    "score-difference": _scores,
    "class-details": dict(terms=dict(loss_form=dict(student_tap=_head))),
    "paper": dict(prompts=_stages[""]),
    **{
        f"masks-{_combine}{_suffix}": dict(prompts=_stage)
        for _suffix, _stage in _stages.items()
        for _combine in ("mean", "rms", "contrast")
    },
}
budget = 240
