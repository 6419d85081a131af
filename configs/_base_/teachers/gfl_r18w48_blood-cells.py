"""GFL-R18 of base width 48 on the blood cells. Not shipped; to train it: python tools/train.py CONFIG, with the config below."""
teacher = dict(
    config='configs/baselines/gfl_r18w48_b8-36e_blood-cells.py',
    checkpoint='work_dirs/gfl_r18w48_b8-36e_blood-cells/epoch_36.pth')
