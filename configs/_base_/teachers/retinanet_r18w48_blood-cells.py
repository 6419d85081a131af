"""RetinaNet-R18 of base width 48 on the blood cells; shipped."""
teacher = dict(
    config='configs/baselines/retinanet_r18w48_b8-36e_blood-cells.py',
    checkpoint='data/teachers/blood-cells_retinanet-r18w48.pth')
