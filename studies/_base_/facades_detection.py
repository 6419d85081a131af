"""Building facades, detection: a RetinaNet on EfficientNet-Lite2 from ImageNet teaches one on a ResNet-18 of width 16."""

student = "configs/baselines/retinanet_r18w16_b8-12e_facades.py"
teacher = dict(
    config="configs/baselines/retinanet_lite2_b8-36e_facades.py",
    checkpoint="studies/teachers/facades-detection_retinanet-lite2.pth",
    steps=900,
)
selection = dict(fraction=0.2, together=r"_\d$")  # both crops of a photograph stay together
