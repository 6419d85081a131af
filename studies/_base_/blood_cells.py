"""Blood cells: a RetinaNet on EfficientNet-Lite2 from ImageNet teaches one on a ResNet-18 of width 16."""

student = "configs/baselines/retinanet_r18w16_b8-12e_blood-cells.py"
teacher = dict(
    config="configs/baselines/retinanet_lite2_b8-36e_blood-cells.py",
    checkpoint="studies/teachers/blood-cells_retinanet-lite2.pth",
    steps=720,
)
selection = dict(fraction=0.22)  # 45 of 205 images
