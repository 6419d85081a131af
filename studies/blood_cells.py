"""Blood cells, detection: a RetinaNet-R18 of base width 48, trained without the selection part, teaches one of width 16."""

name = "blood-cells"
student = "configs/baselines/retinanet_r18w16_b8-12e_blood-cells.py"
teacher = dict(config="configs/baselines/retinanet_r18w48_b8-36e_blood-cells.py", steps=720)  # 36 epochs of 160 images
metric = dict(key="coco/bbox_mAP", name="box AP")
selection = dict(fraction=0.22)  # 45 of 205 images
_neck = dict(
    student_tap="neck",
    student_levels=(0, 1, 2),
    align=dict(type="freqkd.ConvAlign", student_channels=32, teacher_channels=64, num_levels=3),
)
_details = dict(_neck, loss=dict(type="freqkd.FreeKDLoss", preset="details"))
_logit = dict(
    student_tap="bbox_head.retina_cls",
    adapter=dict(type="freqkd.DenseLogits", num_classes=3),
    loss=dict(
        type="freqkd.LogitLoss", softening=dict(type="fixed", tau=1.0), divergence="binary_kl", activation="sigmoid"
    ),
)
methods = {
    "mse": dict(terms=dict(loss_mse=dict(_neck, loss=dict(type="freqkd.MSELoss")))),
    "pkd": dict(terms=dict(loss_pkd=dict(_neck, loss=dict(type="freqkd.PKDLoss")))),
    "details": dict(terms=dict(loss_details=_details)),
    "freekd": dict(
        prompts="configs/freekd/prompts_neck_retinanet-r18w48_b8-4e_blood-cells.py",
        terms=dict(loss_freekd=dict(_neck, loss=dict(type="freqkd.FreeKDLoss", preset="paper"), prompts=True)),
    ),
    "binary-kd": dict(terms=dict(loss_logit=_logit)),
    "details+binary-kd": dict(
        terms=dict(loss_details=_details, loss_logit=dict(_logit, weight=dict(ratio=0.5, iters=50)))
    ),
}
control = "details"
search = dict(methods=[dict(ratio=2.0), dict(ratio=8.0)], student=[dict(lr=1.0), dict(lr=2.0)])
seeds = 3
budget = 240  # 12 epochs
