"""Road scenes: a Semantic FPN on EfficientNet-Lite2 from ImageNet teaches one on a ResNet-18 of width 16."""

student = "configs/baselines/semantic-fpn_r18w16_b8-300i_road-scenes.py"
teacher = dict(
    config="configs/baselines/semantic-fpn_lite2_b8-450i_road-scenes.py",
    checkpoint="studies/teachers/road-scenes_semantic-fpn-lite2.pth",
    steps=450,
)
selection = dict(fraction=0.2, together=8)  # blocks of neighbouring frames, which look alike
