"""Building facades, segmentation: a Semantic FPN on EfficientNet-Lite2 from ImageNet teaches one on a ResNet-18 of width 16."""

student = "configs/baselines/semantic-fpn_r18w16_b8-600i_facades.py"
teacher = dict(
    config="configs/baselines/semantic-fpn_lite2_b8-900i_facades.py",
    checkpoint="studies/teachers/facades-segmentation_semantic-fpn-lite2.pth",
    steps=900,
)
selection = dict(fraction=0.2, together=r"_\d$")  # both crops of a photograph stay together
